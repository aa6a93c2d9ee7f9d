"""The data link over a PLC bridge: one LSDU of IEC 61334-4-32 is one APDU.

The service access points travel beside the LSDU, in the bridge's own primitives, so there is no header here. The base
node repeats on the power line and confirms; nothing is repeated above it, because a packet that was not confirmed may
have arrived. What is left for this link is the answer's timeout, see `dlms.link.direct`.
"""

from __future__ import annotations

from typing import ClassVar

from dlms.link.direct import DirectLink
from dlms.link.options import LinkOptions

LSDU_BYTES_MAX = 1021  # what DL_DATA.req carries
# A base node may take 40 s to confirm a request behind others, and the answer has the same way to go.
ANSWER_TIMEOUT_S = 60.0


class LlcLink(DirectLink):
    """A `dlms.link.datalink.DataLink` for packets, for both sides. `receive` takes one LSDU, `take_output` returns
    one per call and `b""` when there is none.

    `client` and `server` are the LSAPs that the caller hands to the bridge's channel; they are kept for its use.
    A meter's side passes `answer_timeout_s=None`: it waits for ever.
    """

    ENDED: ClassVar[str] = "the bridge was closed"

    def __init__(
        self,
        client: int,
        server: int,
        *,
        answer_timeout_s: float | None = ANSWER_TIMEOUT_S,
        lsdu_bytes_max: int = LSDU_BYTES_MAX,
    ) -> None:
        super().__init__(lsdu_bytes_max, packet=True, answer_timeout_s=answer_timeout_s)
        self.client = client
        self.server = server

    @classmethod
    def from_options(cls, options: LinkOptions) -> LlcLink:
        """A link between the SAPs of `options`, with its timeout. Raises `LocalError` for a server that is no SAP."""
        return cls(options.client, options.sap, answer_timeout_s=options.timeout_s or ANSWER_TIMEOUT_S)
