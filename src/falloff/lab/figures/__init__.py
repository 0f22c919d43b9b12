"""The figures of the report and of the page Compare, as Plotly figures."""
