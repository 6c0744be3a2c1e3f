"""As much of matplotlib as shows a figure: `pyplot.figure`, `get_fignums`, `close`, `show` and
`Figure.savefig`, as its API reference has them. It draws nothing: a picture is `png of NUMBER`."""
