"""`falloff explore`: a local page to look at biases, served from this machine alone (extra `explore`).

app (routes and server) -> one module a page (scheme, attention, compare, checkpoint, exercises), each with `layout` and
`register`; controls (labelled fields), panels (a figure with its downloads), charts (figures from the numbers of
`falloff.views`), theme (light and dark). No page computes a bias itself.
"""
