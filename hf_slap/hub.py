"""Talking to the Hub: errors that say what to do, and in which no token is ever seen."""

import logging
import os
import re
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import LocalTokenNotFoundError

Result = TypeVar("Result")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")  # what the Hub hands out
_SHOWN = "hf_***"
_RETRY = "nothing was published; run the same command again: files that arrived are not sent twice"
_LOGIN = "log in (`hf auth login`, or the environment variable HF_TOKEN) with a token that may write"
_ADVICE = {
    401: f"the token is missing, wrong or expired: {_LOGIN}",
    403: f"this token may not do that: {_LOGIN}, and see that its owner belongs to the organization",
    404: f"it is not there, or it is private and this token may not see it: check the name, and {_LOGIN}",
    409: "somebody else changed it meanwhile; run the same command again",
    412: "somebody else changed it meanwhile; run the same command again",
    413: "a file is larger than the Hub takes",
    429: "too many requests; wait some minutes and run the same command again",
}


class HubError(RuntimeError):
    """The Hub refused, or could not be reached; the message says what to do and holds no token."""


def on_the_hub(work: Callable[[HfApi], Result], token: str | None = None) -> Result:
    """What `work` returns, given the Hub's client; on the way log records lose their tokens.

    Args:
        work: may raise `HubError` itself; everything else that it raises becomes one, since the client's errors are of
            many classes, with what the server said in their texts and causes.
        token: default: the one that is logged in.
    Raises:
        HubError: see there; it comes without a cause or context, which could hold a token.
    """
    api, secrets, problem = HfApi(token=token), _secrets(token), None
    del token  # so that no traceback with local variables shows it
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *arguments, **keywords: _cleaned(before(*arguments, **keywords), secrets))
    try:
        return work(api)
    except HubError as error:
        problem = error
    except Exception as error:
        problem = HubError(without_tokens(_explained(error), secrets))
    finally:
        logging.setLogRecordFactory(before)
    raise problem


def without_tokens(text: str, secrets: list[str] | None = None) -> str:
    """A text with `hf_***` in the place of tokens: of those that are known here, and of all that look like one."""
    for secret in _secrets(None) if secrets is None else secrets:
        text = text.replace(secret, _SHOWN)
    return _TOKEN.sub(_SHOWN, text)


def _secrets(token: str | None) -> list[str]:
    known = {token, get_token(), *(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))}
    return sorted(filter(None, known), key=len, reverse=True)


def _cleaned(record: logging.LogRecord, secrets: list[str]) -> logging.LogRecord:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit; logging reports it
        return record
    if (clean := without_tokens(text, secrets)) != text:
        record.msg, record.args = clean, ()
    return record


def _explained(error: Exception) -> str:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    said = ": ".join(dict.fromkeys(str(one).strip() or type(one).__name__ for one in chain))
    if isinstance(error, LocalTokenNotFoundError):
        return f"no token: {_LOGIN}"
    answers = (getattr(getattr(one, "response", None), "status_code", None) for one in chain)
    status = next(filter(None, answers), None)
    if status in _ADVICE:
        return f"the Hub refused ({status}): {_ADVICE[status]}. It said: {said}"
    if status is not None and status < 500:
        return f"the Hub refused ({status}). It said: {said}"
    broken = ("httpx", "httpcore", "ssl")
    if status is not None or any(
        isinstance(one, ConnectionError | TimeoutError) or type(one).__module__.startswith(broken) for one in chain
    ):
        return f"the Hub could not be reached, or broke off: {_RETRY}. It said: {said}"
    return said
