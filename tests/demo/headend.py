"""The head-end as the demo uses it: its operator interface to command, its database to be asked."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx
import yaml
from sqlalchemy import Engine, RowMapping, create_engine, text

from tests.demo.factory import free_ports, run, tool
from tests.demo.processes import DemoError

TIMEOUT_S = 30.0


class HeadEnd:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database: Engine | None = None
        self._client: httpx.Client | None = None

    def init(self) -> None:
        """Configuration, certificates and the operator's token, as a head-end's own administrator makes them."""
        run(tool("dcu-headend"), "init", "--dir", self.folder, "--host", "127.0.0.1")
        document = self.configuration
        for server, port in zip(document["servers"].values(), free_ports(len(document["servers"])), strict=True):
            server["port"] = port
        self._configure(document)

    @property
    def configuration(self) -> dict[str, Any]:
        return cast("dict[str, Any]", yaml.safe_load((self.folder / "headend.yaml").read_text()))

    @property
    def ca(self) -> Path:
        return self.folder / str(self.configuration["tls"]["ca"])

    def port(self, server: str) -> int:
        return int(self.configuration["servers"][server]["port"])

    def url(self, server: str) -> str:
        return f"https://127.0.0.1:{self.port(server)}"

    def publish(self, server: str, url: str) -> None:
        """Devices are to reach `server` under another address (the line that breaks stands between)."""
        document = self.configuration
        document["servers"][server]["public_url"] = url
        self._configure(document)

    def _configure(self, document: dict[str, Any]) -> None:
        (self.folder / "headend.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    # ---- commands

    @property
    def client(self) -> httpx.Client:
        if self._client is None:
            token = (self.folder / str(self.configuration["operator_token_file"])).read_text().strip()
            self._client = httpx.Client(
                base_url=self.url("operator"),
                headers={"Authorization": f"Bearer {token}"},
                verify=ssl.create_default_context(cafile=str(self.ca)),
                timeout=TIMEOUT_S,
            )
        return self._client

    def call(self, method: str, path: str, document: object = None, *, content: bytes | None = None) -> dict[str, Any]:
        answer = self.client.request(method, path, json=document, content=content)
        if answer.status_code >= 400:
            raise DemoError(f"the operator interface answers {answer.status_code} to {method} {path}: {answer.text}")
        return cast("dict[str, Any]", answer.json())

    def enrol(self, device: str, key: str) -> None:
        self.call("POST", "/v1/devices", {"id": device, "key": key})

    def job(self, device: str, kind: str, parameters: Mapping[str, object]) -> int:
        """Queue a job and push the device; the job's number."""
        job = self.call("POST", f"/v1/devices/{quote(device)}/jobs", {"kind": kind, "params": parameters})
        pushed = self.call("POST", f"/v1/devices/{quote(device)}/push")
        if "session_id" not in pushed:
            raise DemoError(f"the push did not reach the device: {pushed}")
        return int(job["id"])

    def metering_token(self, device: str) -> tuple[str, str]:
        """(URL, token) for the device's uplink."""
        answer = self.call("POST", f"/v1/devices/{quote(device)}/metering-token")
        return str(answer["url"]), str(answer["token"])

    def upload(self, name: str, file: Path) -> str:
        """Store a package; the URL of its download descriptor."""
        return str(self.call("PUT", f"/v1/packages/{name}", content=file.read_bytes())["descriptor"])

    # ---- questions to the database itself

    def ask(self, query: str, **parameters: object) -> Sequence[RowMapping]:
        if self._database is None:
            path = self.folder / str(self.configuration["database"])
            self._database = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
        with self._database.connect() as connection:
            return connection.execute(text(query), parameters).mappings().all()

    def one(self, query: str, **parameters: object) -> Any:
        """The first column of the first row; None where there is no row."""
        rows = self.ask(query, **parameters)
        return next(iter(rows[0].values())) if rows else None

    def job_row(self, number: int) -> RowMapping:
        return self.ask("SELECT * FROM dm_jobs WHERE id = :number", number=number)[0]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._database is not None:
            self._database.dispose()
        self._client = self._database = None
