"""The programs behind the make targets, a file or a folder for each kind; run from the root of the repository.

- `tools.book`, `tools.test`, `tools.links`, `tools.pdf`: ``make book``, ``make test``, ``make links``, ``make pdf``
- `tools.notebooks`: ``make notebooks``, ``make execute``, and the rules that ``make quick`` checks
- `tools.bench`: ``make bench``
- `tools.records`: no target; the long runs that wrote records and weights, such as
  ``python -m tools.records.train_cifar``
"""
