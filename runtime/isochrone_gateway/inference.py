"""The public listener: the Open Inference Protocol between connections and the driver.

Called by ``connection`` with heads and bodies, and by ``driver`` with replies. A request is told to
the scheduler when its head was parsed, if its rows follow from the head, and otherwise as soon as
the part of the body that says so is there; its time runs from its first byte either way.

``x-isochrone-deadline-ms``, ``x-isochrone-accuracy-floor`` and ``parameters.timeout`` may tighten
what the service declares, ``x-isochrone-priority`` and ``parameters.priority`` lower its priority. A
looser value has no effect and is no error, so that one client may serve several services. With
``x-isochrone-offline: true`` a request waits for idle workers; its deadline is then how long.
"""

from typing import Final

from isochrone.errors import RequestError
from isochrone.ids import ServiceId
from isochrone.scheduling.actions import Reply
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone_gateway.answers import answer_error, answer_json, answer_outcome, answer_result
from isochrone_gateway.directory import Directory, Entry, Target, UnknownTargetError, Verb
from isochrone_gateway.driver import Driver
from isochrone_gateway.exchange import Exchange
from isochrone_gateway.live import LiveRequest
from isochrone_gateway.metrics import Metrics
from isochrone_gateway.oip import InferRequest, RequestParser, too_many_rows
from isochrone_gateway.pages import Pages
from isochrone_gateway.replies import STANDBY_MESSAGE, retry_fields

TARGETS_MAX: Final = 1024
"""URLs that are remembered with what they mean; then all are forgotten."""

ANSWERED: Final = (Reason.SERVED, Reason.DEGRADED, Reason.BEST_EFFORT, Reason.OFFLINE)
"""Endings whose client gets the result, if there is one."""


class Inference:
    """What the public listener serves."""

    def __init__(self, driver: Driver, metrics: Metrics, pages: Pages) -> None:
        self.draining = False
        self._driver = driver
        self._metrics = metrics
        self._pages = pages
        self._directory: Directory | None = None
        self._targets: dict[str, Target] = {}

    def serve(self, directory: Directory) -> None:
        """Answer for the services of ``directory`` from now on."""
        self._directory = directory
        self._targets.clear()

    # What connections tell.

    def on_head(self, exchange: Exchange) -> None:
        """Find out what is asked; bring it to the driver as early as can be."""
        head = exchange.head
        target = self._targets.get(head.target)
        if head.problem is not None:
            self._refuse(exchange, None, *head.problem)
        elif target is None or target.verb is not Verb.INFER:
            self._on_other(exchange)
        elif self.draining:
            entry = target.entry
            self._metrics.count_request(entry.id, "", Outcome.FAILED, Reason.DRAINING)
            answer_outcome(exchange, Outcome.FAILED, Reason.DRAINING)
        elif not self._driver.leading:
            self._turn_away(exchange, target.entry)
        else:
            self._on_infer(exchange, target)

    def on_part(self, exchange: Exchange) -> None:
        """Read the JSON part, which is there; the tensors behind it are still coming."""
        live = exchange.context
        assert isinstance(live, LiveRequest)
        parser = live.entry.parser
        assert parser is not None
        self._read_json(exchange, live, parser)

    def on_body(self, exchange: Exchange) -> None:
        """Have the request run."""
        live = exchange.context
        assert isinstance(live, LiveRequest)
        parser = live.entry.parser
        assert parser is not None
        if live.form is None and not self._read_json(exchange, live, parser):
            return
        self._take_tensors(exchange, live)
        if live.id < 0:
            self._driver.arrive(live, ready=True)
        else:
            self._driver.complete(live)

    def on_broken(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer that the body cannot be read."""
        live = exchange.context
        self._fail(exchange, live if isinstance(live, LiveRequest) else None, status, message)

    def on_crowded(self, exchange: Exchange, message: str) -> None:
        """Refuse a request for whose body there is no room."""
        live = exchange.context
        assert isinstance(live, LiveRequest)
        live.problem = (503, message)
        self._driver.crowd_out(live)

    def on_gone(self, exchange: Exchange) -> None:
        """Take a request back whose client has left."""
        live = exchange.context
        if not isinstance(live, LiveRequest):
            return
        if live.id >= 0:
            self._driver.withdraw(live, Reason.CLIENT_LEFT)
        else:
            self._metrics.count_request(live.entry.id, "", Outcome.INVALID, Reason.CLIENT_LEFT)

    def on_unreadable(self) -> None:
        """Count what was no request."""
        self._metrics.unreadable += 1

    # What the driver tells.

    def reply(self, live: LiveRequest, reply: Reply, outputs: tuple[memoryview, ...]) -> None:
        """Answer the client of ``live``, unless it has left."""
        exchange = live.exchange
        assert isinstance(exchange, Exchange)
        live.exchange = None
        live.tensors = ()
        if exchange.answered:
            return
        if reply.action is not None and reply.reason in ANSWERED:
            answer_result(exchange, live, reply, outputs)
            return
        if live.problem is not None:
            status, message = live.problem
            fields = retry_fields(None) if status == 503 else b""  # noqa: PLR2004 - the status
            answer_error(exchange, status, message, reply.outcome, reply.reason, fields)
            return
        ran = live.action if reply.action is not None else None
        answer_outcome(
            exchange,
            reply.outcome,
            reply.reason,
            retry_after_ns=reply.retry_after_ns,
            variant="" if ran is None else ran.action.variant,
        )

    # Inference requests.

    def _on_infer(self, exchange: Exchange, target: Target) -> None:
        head, entry = exchange.head, target.entry
        live = LiveRequest(self, entry, exchange.arrived_at, exchange.head_at)
        live.exchange = exchange
        live.target_ns = head.target_ns
        live.version = target.version
        live.floor_ppm = head.accuracy_floor_ppm
        live.priority = head.priority
        live.offline = head.offline
        exchange.context = live
        parser = entry.parser
        if parser is None:  # nothing can be checked without a model; the scheduler says no
            live.rows = 1
            self._driver.arrive(live, ready=False)
        elif exchange.complete:
            if self._read_json(exchange, live, parser):
                self._take_tensors(exchange, live)
                self._driver.arrive(live, ready=True)
        elif head.json_bytes is not None and not head.chunked:
            exchange.part_bytes = head.json_bytes
            self._arrive_by_head(exchange, live, parser)

    def _arrive_by_head(self, exchange: Exchange, live: LiveRequest, parser: RequestParser) -> None:
        """Bring a request whose rows follow from its lengths: all of its one input is binary."""
        head, signature = exchange.head, parser.signature
        assert head.json_bytes is not None
        binary_bytes = head.length - head.json_bytes
        if len(signature.inputs) != 1 or not binary_bytes:
            return
        rows, rest = divmod(binary_bytes, signature.row_bytes)
        if rest:
            message = (
                f"the body has {binary_bytes} bytes behind its JSON part, which is no whole number "
                f"of rows of {signature.row_bytes} bytes"
            )
            self._fail(exchange, live, 400, message)
        elif rows > signature.rows_max:
            self._fail(exchange, live, 400, str(too_many_rows(rows, signature)))
        else:
            live.rows = rows
            self._driver.arrive(live, ready=False)

    def _read_json(self, exchange: Exchange, live: LiveRequest, parser: RequestParser) -> bool:
        """Parse the JSON part; False when that led to an answer.

        A request that was brought is corrected, and one whose body is still coming is brought.
        """
        try:
            request = _parse(exchange, parser)
        except RequestError as error:
            self._fail(exchange, live, 400, str(error))
            return False
        if live.id >= 0 and request.rows != live.rows:
            message = (
                f"the lengths in the head are those of {live.rows} rows, and the inputs have "
                f"{request.rows}: correct Content-Length, Inference-Header-Content-Length or shape"
            )
            self._fail(exchange, live, 400, message)
            return False
        live.form = request
        live.rows = request.rows
        timeout_ns = request.timeout_ns
        if timeout_ns is not None and (live.target_ns is None or timeout_ns < live.target_ns):
            live.target_ns = timeout_ns
        priority = live.entry.priority - request.lowered
        lowered = request.lowered > 0 and (live.priority is None or priority < live.priority)
        if lowered:
            live.priority = priority
        if live.id < 0:
            if not exchange.complete:
                self._driver.arrive(live, ready=False)
        elif lowered or (timeout_ns is not None and live.arrived_at + timeout_ns < live.deadline):
            self._driver.tighten(live)
        return not exchange.answered

    def _take_tensors(self, exchange: Exchange, live: LiveRequest) -> None:
        request = live.form
        assert isinstance(request, InferRequest)
        json_bytes = exchange.head.json_bytes
        live.tensors = request.tensors(
            exchange.body, len(exchange.body) if json_bytes is None else json_bytes
        )

    def _fail(
        self, exchange: Exchange, live: LiveRequest | None, status: int, message: str
    ) -> None:
        """Answer an error of the client's, and take the request back where it was brought."""
        if live is not None and live.id >= 0:
            live.problem = (status, message)
            self._driver.withdraw(live, Reason.BAD_REQUEST)
        else:
            self._refuse(exchange, live.entry if live else None, status, message)

    def _turn_away(self, exchange: Exchange, entry: Entry) -> None:
        """Answer that another gateway of this cell takes requests."""
        outcome, reason = Outcome.REFUSED, Reason.NOT_LOADED
        self._metrics.count_request(entry.id, "", outcome, reason)
        answer_error(exchange, 503, STANDBY_MESSAGE, outcome, reason, retry_fields(None))

    def _refuse(self, exchange: Exchange, entry: Entry | None, status: int, message: str) -> None:
        """Answer an error of the client's that the driver never heard of."""
        service = ServiceId("") if entry is None else entry.id
        self._metrics.count_request(service, "", Outcome.INVALID, Reason.BAD_REQUEST)
        answer_error(exchange, status, message, Outcome.INVALID, Reason.BAD_REQUEST)

    # Everything else that is asked.

    def _on_other(self, exchange: Exchange) -> None:
        """Answer at once; a body that is still coming is dropped."""
        wanted = exchange.head.target
        page = self._pages.fixed(wanted)
        if page is not None:
            answer_json(exchange, *page)
        elif self._directory is None:
            message = "this gateway has no plan yet: ask again after Retry-After"
            self._metrics.count_request("", "", Outcome.REFUSED, Reason.NOT_LOADED)
            answer_error(
                exchange, 503, message, Outcome.REFUSED, Reason.NOT_LOADED, retry_fields(None)
            )
        else:
            self._on_model(exchange, self._directory, wanted)

    def _on_model(self, exchange: Exchange, directory: Directory, wanted: str) -> None:
        try:
            target = directory.resolve(wanted)
        except UnknownTargetError as error:
            self._refuse(exchange, None, 404, str(error))
            return
        if target.verb is not Verb.INFER:
            answer_json(exchange, *self._pages.model(target))
            return
        if len(self._targets) >= TARGETS_MAX:
            self._targets.clear()
        self._targets[wanted] = target
        self.on_head(exchange)


def _parse(exchange: Exchange, parser: RequestParser) -> InferRequest:
    """Return what the JSON part asks, which is there; ``RequestError`` when it is wrong."""
    body = exchange.body
    length, json_bytes = len(body), exchange.head.json_bytes
    if json_bytes is None:
        json_bytes = length
    if json_bytes > length:  # a chunked body: its length was not known before
        message = (
            f"Inference-Header-Content-Length is {json_bytes}, more than the body's {length} bytes"
        )
        raise RequestError(message)
    return parser.parse(bytes(body[:json_bytes]), length - json_bytes)
