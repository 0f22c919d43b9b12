"""The bias of each scheme after training."""

from html import escape
from typing import Any

from falloff.lab.figures.charts import bias_chart
from falloff.lab.report.elements import plot
from falloff.schemes import Scheme
from falloff.views.palette import head_colours


def biases_section(order: list[str], schemes: dict[str, Scheme], config: dict[str, Any]) -> str:
    """The section; empty if no scheme has a bias of its own."""
    if not schemes:
        return ""
    settings = config["settings"]
    train_length, heads = settings["train_length"], settings["heads"]
    colours = zip(head_colours(heads), head_colours(heads, dark=True), strict=True)
    legend = "".join(
        f'<span style="--light:{light};--dark:{dark}">head {head}</span>' for head, (light, dark) in enumerate(colours)
    )
    panels = "".join(
        f'<div class="chart"><h3>{escape(name)}</h3><p class="formula">{escape(schemes[name].formula)}</p>'
        f"{plot(bias_chart(name, schemes[name], train_length))}</div>"
        for name in order
        if name in schemes
    )
    rows_note = ""
    by_row = [name for name in order if name in schemes and not schemes[name].toeplitz]
    if by_row:
        rows_note = (
            f" Where the query's position matters too ({escape(', '.join(by_row))}): solid for the query at "
            f"{train_length - 1:,}, dotted for the one at {2 * train_length - 1:,}."
        )
    of_which = ""
    if len(settings["tasks"]) > 1 or len(settings["seeds"]) > 1:
        of_which = f" Of one training run: task {escape(settings['tasks'][0])}, seed {settings['seeds'][0]}."
    return f"""<section id="biases">
<h2>The bias of each scheme after training</h2>
<p class="note">What is added to the scaled scores, by offset (how many tokens back the key lies); all layers share it. Right
of the dotted line no offset was ever trained.{rows_note} Only differences along a curve matter: softmax ignores a
constant. Curves are cut off 20 below their highest value, where a key gets next to no weight.{of_which}</p>
<p class="heads">{legend}</p>
<div class="panels">{panels}</div>
</section>"""
