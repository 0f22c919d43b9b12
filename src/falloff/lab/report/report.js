// Several charts share one place: buttons and selects switch between them. Plotly lays out a chart only while it is visible.
const shown = (element) => !element.closest("[hidden]");
const fit = () => {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) if (shown(plot)) Plotly.Plots.resize(plot);
};
for (const tabs of document.querySelectorAll(".tabs")) {
  const buttons = tabs.querySelectorAll("button");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
        if (other.dataset.chart) document.getElementById(other.dataset.chart).hidden = other !== button;
      }
      // On a phone, a table has room for one group of columns.
      if (button.dataset.columns) tabs.parentElement.querySelector("table[data-columns]").dataset.columns = button.dataset.columns;
      fit();
    });
  }
}
for (const select of document.querySelectorAll("select[data-panels]")) {
  const show = () => {
    for (const option of select.options) document.getElementById(option.value).hidden = option.value !== select.value;
    fit();
  };
  select.addEventListener("change", show);
  show(); // a browser that goes back to the page keeps what was chosen
}
// On a phone, a legend of many names needs a smaller font and more height, not a narrow strip that scrolls.
if (matchMedia("(max-width: 40rem)").matches) {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const names = plot.data.filter((trace) => trace.showlegend !== false).length;
    if (!plot.layout.legend || names < 9) continue;
    const twoColumns = { entrywidth: 0.48, entrywidthmode: "fraction" }; // one long name would make it a single one
    Object.assign(plot.layout.legend, { font: { size: 10 }, y: 0, yref: "container", yanchor: "bottom", ...twoColumns });
    const rows = 19 * Math.ceil(names / 2);
    for (const box of [plot, plot.parentElement]) box.style.height = `${340 + rows}px`;
    Plotly.relayout(plot, { height: 340 + rows, "margin.l": 48, "margin.r": 4, "margin.b": 60 + rows });
  }
}
// Charts are drawn for a white ground. On a dark one, each colour becomes its like, and so back.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  const css = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => css.getPropertyValue(name).trim());
  const like = (colour) => (Array.isArray(colour) ? colour.map(like) : dark.matches ? onDark[colour] ?? colour : colour);
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    plot.drawn ??= plot.data.map((trace) => [trace.line?.color, trace.marker?.color, trace.error_y?.color]);
    plot.data.forEach((trace, place) => {
      const [curve, marker, bar] = plot.drawn[place];
      if (curve) trace.line.color = like(curve);
      if (marker) trace.marker.color = like(marker);
      if (bar) trace.error_y.color = like(bar);
    });
    for (const note of plot.layout.annotations ?? []) note.font.color = soft;
    Object.assign(plot.layout.font, { color: ink });
    for (const axis of [plot.layout.xaxis, plot.layout.yaxis]) Object.assign(axis, { gridcolor: line, linecolor: line });
    plot.layout.hoverlabel = { ...plot.layout.hoverlabel, bgcolor: css.getPropertyValue("--card").trim(), bordercolor: line };
    Plotly.redraw(plot);
  }
};
if (dark.matches) paint();
dark.addEventListener("change", paint);
window.addEventListener("load", fit); // a chart drawn before the page was laid out has the wrong width
window.addEventListener("beforeprint", fit);
window.addEventListener("afterprint", fit);
