"""Reports of result folders: the table at the end of a run, a page with everything, the README's results.

Beside the page stand tables.md, numbers.csv, numbers.json, and figures/ as PNG and SVG, all with the same numbers.
Result folders are only read, through `disk`, and once a command.

Reading order:
    records     one run's files, checked; results: a folder's arms, what is missing, what cannot be read
    statistics  curves to numbers; summary: all numbers of a folder
    formats     cells and tables in every format; colours, drawing; tables, figures, gallery, page: what is shown
    write       the files; readme: the README's results; flags, command: the command line
"""
