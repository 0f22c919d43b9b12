// What runs in the browser alone: theme, title, sliders, downloads and sorting. Nothing is fetched.
(() => {
  const chosenTheme = () => {
    const stored = window.localStorage.getItem("falloff-theme");
    return stored || (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  };
  document.documentElement.dataset.theme = chosenTheme();

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.explore = {
    theme(clicks) {
      let theme = chosenTheme();
      if (clicks) {
        theme = theme === "dark" ? "light" : "dark";
        window.localStorage.setItem("falloff-theme", theme);
      }
      document.documentElement.dataset.theme = theme;
      return theme;
    },

    // After a page has been shown: its name in the title, and which link is the current one.
    title(name) {
      if (name) document.title = `${name} · falloff explore`;
      setTimeout(() => {
        for (const link of document.querySelectorAll("nav a"))
          link.classList.contains("here") ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
      });
      return window.dash_clientside.no_update;
    },

    // A slider (0 to 1000) and its number; whichever moved, the other follows.
    follow(place, number, ends) {
      const none = window.dash_clientside.no_update;
      const moved = window.dash_clientside.callback_context.triggered_id;
      if (!moved) return [none, none];
      const {low, high, doubling, whole} = ends;
      if (moved.part === "slider") {
        const share = place / 1000;
        let value = doubling ? low * (high / low) ** share : low + (high - low) * share;
        value = whole ? Math.round(value) : Number(value.toPrecision(3));
        return [none, value];
      }
      if (typeof number !== "number") return [none, none];
      const inside = Math.min(Math.max(number, low), high);
      const share = doubling ? Math.log(inside / low) / Math.log(high / low) : (inside - low) / (high - low);
      return [Math.round(1000 * share), none];
    },
  };

  // Cells that a spreadsheet would take for a formula get an apostrophe.
  const written = (cell) => {
    let text = cell === null || cell === undefined ? "" : String(cell);
    if (typeof cell !== "number" && /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  // The numbers of a figure: a row for each point, or for a heat map each cell.
  const rowsOf = (plot) => {
    const rows = [];
    for (const trace of plot.data) {
      if (trace.type === "heatmap") {
        if (!rows.length) rows.push(["row", "column", "value"]);
        trace.z.forEach((cells, row) => cells.forEach((cell, column) => {
          if (cell === null) return;
          const shown = trace.meta === "text" ? trace.text[row][column] : cell;
          rows.push([trace.y ? trace.y[row] : row, trace.x ? trace.x[column] : column, shown]);
        }));
      } else if (trace.base) {
        if (!rows.length) rows.push(["label", "offsets"]);
        trace.text.forEach((label, place) => rows.push([label, trace.customdata[place]]));
      } else {
        if (!rows.length) rows.push(["name", "x", "y"]);
        Array.from(trace.x).forEach((x, place) => rows.push([trace.name || "", x, trace.y[place]]));
      }
    }
    return rows;
  };

  const save = (name, content) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], {type: "text/csv"}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const download = (button) => {
    const {figure, format, file} = button.dataset;
    const plot = document.getElementById(figure)?.querySelector(".js-plotly-plot");
    if (!plot) return;
    if (format === "csv") {
      save(`${file}.csv`, rowsOf(plot).map((row) => row.map(written).join(",")).join("\r\n") + "\r\n");
      return;
    }
    const {width, height} = plot.getBoundingClientRect();
    window.Plotly.downloadImage(plot, {format, filename: file, width, height, scale: format === "png" ? 2 : 1});
  };

  const sort = (button) => {
    const heading = button.closest("th");
    const table = button.closest("table");
    const column = [...heading.parentElement.children].indexOf(heading);
    const way = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", other === heading ? way : "none");
    const key = (row) => row.children[column].textContent.trim();
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [first, second] = [key(a), key(b)];
      const [x, y] = [first, second].map((text) => Number.parseFloat(text.replaceAll(",", "")));
      const order = Number.isNaN(x) || Number.isNaN(y) ? first.localeCompare(second) : x - y;
      return way === "ascending" ? order : -order;
    });
    body.append(...rows);
  };

  // Dash marks its checkboxes and radio buttons as options of a list box, which hides from a screen reader that they are
  // checkboxes. The legend of the fieldset around them names the group.
  const plain = (root) => {
    for (const part of root.querySelectorAll(".chips[role], .chips [role=option], .chips [aria-selected]")) {
      part.removeAttribute("role");
      part.removeAttribute("aria-selected");
    }
  };
  new MutationObserver(() => plain(document)).observe(document.documentElement, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["role", "aria-selected"],
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("download")) download(button);
    if (button?.classList.contains("sort")) sort(button);
  });
})();
