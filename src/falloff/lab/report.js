// Two charts share one place: buttons switch between them. Plotly lays out a chart only while it is visible.
const fit = () => {
  for (const plot of document.querySelectorAll(".chart:not([hidden]) .js-plotly-plot")) Plotly.Plots.resize(plot);
};
for (const tabs of document.querySelectorAll(".tabs")) {
  const buttons = tabs.querySelectorAll("button");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
        if (other.dataset.chart) document.getElementById(other.dataset.chart).hidden = other !== button;
      }
      // On a phone, the table has room for one group of columns.
      if (button.dataset.columns) document.querySelector("table").dataset.columns = button.dataset.columns;
      fit();
    });
  }
}
window.addEventListener("load", fit); // a chart drawn before the page was laid out has the wrong width
window.addEventListener("beforeprint", fit);
window.addEventListener("afterprint", fit);
