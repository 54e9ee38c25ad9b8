"""A server for language models that speaks OpenAI's interface, with a page for chats. Introduced in chapter 15.

On the command line: ``python -m bigmodel_helpers.inference.server smollm2``.
"""

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"the server needs {error.name}: pip install starlette uvicorn") from None

from bigmodel_helpers.inference.server._app import Server, create_app, serve
from bigmodel_helpers.inference.server._hosted import Hosted
from bigmodel_helpers.inference.server._limits import Limits
from bigmodel_helpers.inference.server._loading import load

__all__ = ["Hosted", "Limits", "Server", "create_app", "load", "serve"]
