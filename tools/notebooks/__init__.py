"""``make notebooks`` is `check`, ``make execute`` is `execute`, and the tests of ``make quick`` apply `rules`.

`rules` lists the rules of `layout`, `exercises` and `content`; `notebook` and `prose` are what all of them share.
"""
