// Two charts share one place: buttons switch between them. Plotly lays out a chart only while it is visible.
const fit = () => {
  for (const plot of document.querySelectorAll(".chart:not([hidden]) .js-plotly-plot")) Plotly.Plots.resize(plot);
};
const buttons = document.querySelectorAll(".tabs button");
for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) {
      other.setAttribute("aria-pressed", String(other === button));
      document.getElementById(other.dataset.chart).hidden = other !== button;
    }
    fit();
  });
}
window.addEventListener("load", fit); // a chart drawn before the page was laid out has the wrong width
window.addEventListener("beforeprint", fit);
window.addEventListener("afterprint", fit);
