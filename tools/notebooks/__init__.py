"""``make notebooks`` is `check`, ``make execute`` is `execute`, and the tests of ``make quick`` apply `rules`.

`rules` lists the rules of `layout`, `exercises` and `content`, which look at one chapter; `crosschecks` compares
pages. `notebook`, `prose` and `stamps` are what all of them share; `nbval_conftest` is copied beside the
notebooks that run.
"""
