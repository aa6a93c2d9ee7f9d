"""The client of the operator API, for the command line."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from headend.config import CONFIG_NAME, Config

TIMEOUT_S = 60.0


class OperatorError(Exception):
    """The head-end could not be reached, or refused. The text is a sentence for the operator."""


class OperatorClient:
    """Calls a running head-end with the token and CA of its configuration."""

    def __init__(self, base_url: str, token: str, ca: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        self._client = httpx.Client(
            base_url=base_url,
            verify=context,
            timeout=TIMEOUT_S,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )

    @classmethod
    def of(cls, config: Config) -> OperatorClient:
        """A client for the head-end of `config` on this machine. Raises `OperatorError` when it does not seem to
        run."""
        try:
            port = json.loads(config.ports_file.read_text(encoding="utf-8"))["operator"]
            token = config.operator_token_file.read_text(encoding="ascii").strip()
            return cls(config.servers["operator"].url(port), token, config.ca)
        except (OSError, ValueError, KeyError) as error:
            why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            start = f"dcu-headend serve --config {config.folder / CONFIG_NAME}"
            raise OperatorError(f"no head-end seems to run in {config.folder} ({why}); start it: {start}") from error

    def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON of a GET. Raises `OperatorError`."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, document: object = None) -> Any:
        """The JSON answer to a POST. Raises `OperatorError`."""
        return self._call("POST", path, json=document if document is not None else {})

    def post_text(self, path: str, text: str, content_type: str) -> Any:
        """The JSON answer to a POST of a text. Raises `OperatorError`."""
        return self._call("POST", path, content=text.encode(), headers={"Content-Type": content_type})

    def patch(self, path: str, document: object) -> Any:
        """The JSON answer to a PATCH. Raises `OperatorError`."""
        return self._call("PATCH", path, json=document)

    def put(self, path: str, document: object) -> Any:
        """The JSON answer to a PUT. Raises `OperatorError`."""
        return self._call("PUT", path, json=document)

    def delete(self, path: str) -> Any:
        """The JSON answer to a DELETE, empty where there is none. Raises `OperatorError`."""
        return self._call("DELETE", path)

    def put_file(self, path: str, file: Path, content_type: str) -> Any:
        """Upload a file. Raises `OperatorError`."""
        try:
            with file.open("rb") as stream:
                return self._call("PUT", path, content=stream, headers={"Content-Type": content_type})
        except OSError as error:
            raise OperatorError(f"{file}: {error.strerror}") from error

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            if "json" in arguments:  # what httpx makes of surrogates and of Infinity differs by its version
                body = json.dumps(arguments.pop("json"), ensure_ascii=False, allow_nan=False).encode()
                arguments |= {"content": body, "headers": {"Content-Type": "application/json"}}
            answer = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise OperatorError(f"{self._client.base_url}: {error}") from error
        except UnicodeEncodeError as error:  # an argument, or JSON, with what was no text
            raise OperatorError(
                f"the character U+{ord(error.object[error.start]):04X} cannot be sent as text"
            ) from error
        except ValueError as error:  # Infinity and NaN
            raise OperatorError(f"this cannot be sent as JSON: {error}") from error
        try:
            document = answer.json() if answer.content else {}
        except ValueError:
            document = {"error": answer.text[:200]}
        if answer.is_error:
            reason = document.get("error", "") if isinstance(document, dict) else ""
            raise OperatorError(f"HTTP {answer.status_code}: {reason}")
        return document


def device_path(device_id: str, rest: str = "") -> str:
    """The API path of a device."""
    # What was no text on the command line goes as the octets that it was: the head-end knows no such device.
    return f"/v1/devices/{quote(device_id, safe='', errors='surrogateescape')}{rest}"
