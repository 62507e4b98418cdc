"""What operators ask and order: status, why, history, switchover, promote, resync, merge. Pure; answers are plain maps (ADMIN)."""

from typing import TYPE_CHECKING, Any, NamedTuple

from zmqha.core.advice import cure, needs_operator, sentence
from zmqha.core.client_protocol import VERSION as PROTOCOL
from zmqha.core.contact import LONG_AGO
from zmqha.core.merge_report import MergeReport
from zmqha.core.peer_protocol import Beat, State, Sub
from zmqha.core.refusal import refusal
from zmqha.core.why import why
from zmqha.errors import NotActive, OperationFailed, Unfinished

if TYPE_CHECKING:
    from zmqha.core.broker import Broker


class Pair(NamedTuple):
    """What people call things."""

    name: str
    cluster_id: str
    single_machine: bool
    version: str
    endpoint: str
    peer_endpoint: str
    gateway_kind: str
    gateways: tuple[str, ...]


class Operator:
    """Carries out verbs on a broker."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def carry_out(self, broker: "Broker", verb: str, arguments: dict[str, Any], now_ms: int) -> Any:
        """The result of a verb; raises ZmqhaError."""
        match verb:
            case "status":
                return self.status(broker, now_ms)
            case "why":
                return {
                    **why(broker.ha, now_ms),
                    "cure": cure(broker.ha, broker.lost_branch, now_ms),
                    "acts": acts(broker.ha.durable.audit),
                }
            case "history":
                return self._history(broker)
            case "switchover":
                return self._switchover(broker, arguments, now_ms)
            case "promote":
                return self._promote(broker, arguments, now_ms)
            case "resync":
                return self._resync(broker, arguments, now_ms)
            case "merge":
                return self._merge(broker, arguments, now_ms)
            case "merges":
                return self._merges(broker, now_ms)
            case "version":
                return {
                    "version": self.pair.version,
                    "protocol": PROTOCOL,
                    "server": broker.ha.identity.node_id,
                    "wall_ms": broker.wall_ms,
                }
        raise OperationFailed(f"no verb {verb!r}", cause="this server does not know it", cure="see `zmqha --help`")

    def status(self, broker: "Broker", now_ms: int) -> dict[str, Any]:
        """Both servers as this one sees them, and the verdict."""
        ha = broker.ha
        peer = ha.peer
        mine, theirs = self._own_row(broker, now_ms), self._peer_row(broker, peer, now_ms)
        rows = [row for row in (mine, theirs) if row is not None]
        rows.sort(key=lambda row: row["role"])
        heard = peer is not None and ha.heard(now_ms)
        return {
            "pair": self.pair.name,
            "cluster": self.pair.cluster_id,
            "single_machine": self.pair.single_machine,
            "answering": ha.identity.node_id,
            "servers": rows,
            "gateway": {
                "kind": self.pair.gateway_kind,
                "addresses": list(self.pair.gateways),
                "own": ha.vote.answers(),
                "peer": peer.gateway if peer is not None and heard else None,
            },
            "counts": broker.service.counts() if broker.serving else None,
            "copy": broker.source.progress() if broker.serving else None,
            "equal": (peer.position == ha.position) if peer is not None and heard else None,
            "sentence": sentence(ha, broker.lost_branch, now_ms),
            "merges": len(broker.service.merge_reports) if broker.serving else None,
            "needs_operator": needs_operator(ha, now_ms),
        }

    # --- rows of the table --------------------------------------------------------------------------------------------------

    def _own_row(self, broker: "Broker", now_ms: int) -> dict[str, Any]:
        ha = broker.ha
        age = broker.source.overdue_ms(now_ms) if broker.serving else 0
        lag = max(0, ha.peer.position.txn - ha.position.txn) if ha.peer is not None and not broker.serving else 0
        return {
            "name": ha.identity.node_id,
            "endpoint": self.pair.endpoint,
            "role": "Primary" if ha.identity.primary else "Secondary",
            "state": ha.state.value,
            "sub": "syncing"
            if ha.state is State.STANDALONE and broker.source.fed_session().incarnation
            else ha.sub(now_ms).value,
            "reason": ha.reason,
            "standing": ha.durable.standing.value,
            "epoch": ha.epoch.counter,
            "txn": ha.position.txn,
            "chain": ha.position.chain[:8].hex(),
            "lag_ms": float(age) if broker.serving and ha.granted else None,
            "lag_txns": lag,
            "free": ha.free,
            "contact_ms": _age(ha.contact.contact_ms, now_ms),
            "copied": ha.copied,
            "version": self.pair.version,
            "since_ms": now_ms - ha.since_ms,
            "acts": acts(ha.durable.audit),
            "refuses_sends": broker.serving and broker.space.nearly_full,
            "scrub": broker.scrubbed._asdict(),
        }

    def _peer_row(self, broker: "Broker", peer: Beat | None, now_ms: int) -> dict[str, Any] | None:
        ha = broker.ha
        if not ha.identity.peer_id:
            return None
        row: dict[str, Any] = {
            "name": ha.identity.peer_id,
            "endpoint": self.pair.peer_endpoint,
            "role": "Secondary" if ha.identity.primary else "Primary",
            "state": "unreachable",
            "sub": "",
            "reason": "",
            "standing": "",
            "epoch": 0,
            "txn": 0,
            "chain": "",
            "lag_ms": None,
            "lag_txns": None,
            "free": None,
            "contact_ms": _age(ha.contact.contact_ms, now_ms),
            "copied": 0.0,
            "version": "",
            "since_ms": None,
            "acts": [],
        }
        if peer is None or not ha.heard(now_ms):
            return row
        behind = max(0, ha.position.txn - peer.position.txn) if broker.serving else 0
        row.update(
            state=peer.state.value,
            sub=peer.sub.value,
            reason=peer.reason,
            standing=peer.standing.value,
            epoch=peer.epoch.counter,
            txn=peer.position.txn,
            chain=peer.position.chain[:8].hex(),
            lag_ms=float(broker.source.overdue_ms(now_ms)) if peer.state is State.PASSIVE else None,
            lag_txns=behind,
            free=peer.free,
            copied=peer.copied,
        )
        return row

    # --- orders -------------------------------------------------------------------------------------------------------------

    def _history(self, broker: "Broker") -> dict[str, Any]:
        entries = [
            {
                "epoch": entry.epoch.counter,
                "txn": entry.first_txn,
                "reason": entry.reason,
                "mode": entry.mode.value,
                "wall_ms": entry.wall_ms,
                "active": entry.writer,
                "outage_ms": entry.outage_ms,
            }
            for entry in broker.ha.lineage
        ]
        ha = broker.ha
        return {
            "pair": self.pair.name, "cluster": self.pair.cluster_id, "entries": entries,
            "server": ha.identity.node_id, "acts": acts(ha.durable.audit),
        }  # fmt: skip

    def _switchover(self, broker: "Broker", arguments: dict[str, Any], now_ms: int) -> dict[str, Any]:
        ha = broker.ha
        to = arguments.get("to") or ha.identity.peer_id
        if to == ha.identity.node_id and broker.serving:
            raise OperationFailed(f"{to} is active already", cause="nothing is to be switched", cure="look at `zmqha status`")
        if to != ha.identity.peer_id:
            raise OperationFailed(
                f"no server {_text(arguments, 'to')!r} here",
                cause=f"the other server is {ha.identity.peer_id!r}",
                cure=f"zmqha switchover --to {ha.identity.peer_id}",
            )
        if ha.sub(now_ms) is Sub.LEAVING:
            raise OperationFailed("a switchover is under way already", cause=ha.reason, cure="wait, then look at `zmqha status`")
        reason = _text(arguments, "reason")
        ha.leave("switchover by an operator" + (f" ({reason})" if reason else ""), now_ms, exit=False)
        return {"from": ha.identity.node_id, "to": to, "started": True}

    def _promote(self, broker: "Broker", arguments: dict[str, Any], now_ms: int) -> dict[str, Any]:
        if arguments.get("accept_loss_of_peer") is not True:
            raise OperationFailed(
                "promote needs --accept-loss-of-peer",
                cause="messages that only the other server holds would be given up",
                cure="start the other server if you can; otherwise say the flag",
            )
        broker.ha.promote(_who(arguments), f"{broker.wall_ms} ms", now_ms)
        return {"promoted": broker.ha.identity.node_id, "position": str(broker.ha.position)}

    def _resync(self, broker: "Broker", arguments: dict[str, Any], now_ms: int) -> dict[str, Any]:
        if arguments.get("discard_own") is not True:
            raise OperationFailed(
                "resync needs --discard-own",
                cause="confirmed messages that only this server holds would be given up (its files are kept aside)",
                cure="say the flag, or keep them: zmqha merge",
            )
        ha = broker.ha
        act = f"{broker.wall_ms} ms resync by {_who(arguments)}, store at {ha.position} set aside"
        begun = len(ha.actions)
        ha.resync(now_ms)
        ha.remember(act, before=begun)
        return {"resync": broker.ha.identity.node_id}

    def _merge(self, broker: "Broker", arguments: dict[str, Any], now_ms: int) -> dict[str, Any]:
        """Hand the own branch over; ``dry_run``: say what would be."""
        ha = broker.ha
        if arguments.get("dry_run") is True:
            return self._dry_run(broker)
        ha.merge()
        ha.remember_merge(
            f"{broker.wall_ms} ms merge by {_who(arguments)}, branch at {ha.position} goes to {ha.identity.peer_id}"
        )
        return {"merge": ha.identity.node_id, "into": ha.identity.peer_id, "started": True}

    def _merges(self, broker: "Broker", now_ms: int) -> dict[str, Any]:
        """They are in the store, which only the active has open."""
        if not broker.serving:
            raise NotActive(refusal(broker.ha, now_ms).what, cause=broker.ha.reason, cure="ask the active server")
        return {"server": broker.ha.identity.node_id, "reports": [_report(one) for one in broker.service.merge_reports]}

    def _dry_run(self, broker: "Broker") -> dict[str, Any]:
        ha, survey = broker.ha, broker.lost_branch.survey
        if ha.diverged is None:
            raise OperationFailed(
                "there is nothing to merge",
                cause="this store holds nothing that the serving one lacks, or the other server does not serve",
                cure="look at `zmqha status`",
            )
        if ha.store_doubted:
            raise OperationFailed(
                "what this branch holds cannot be counted",
                cause=f"its store is damaged ({ha.facts.reason})",
                cure="zmqha merge tries what can be read, zmqha resync --discard-own gives it up",
            )
        if survey is None:
            raise Unfinished(
                "what this branch holds is still being counted",
                cause=broker.lost_branch.uncounted or "the divergence was just noticed",
                cure="try again in a few seconds",
            )
        return {
            "server": ha.identity.node_id,
            "into": ha.identity.peer_id,
            "branch": ha.position.epoch.counter,
            "common_txn": survey.common_txn,
            "queues": [queue._asdict() for queue in survey.queues],
            "differences": [each._asdict() for each in survey.differences],
        }


def _report(report: MergeReport) -> dict[str, Any]:
    """As a map. Producers are numbers of 62 bits."""
    return {
        **report._asdict(),
        "branch": report.branch.counter,
        "queues": [queue._asdict() for queue in report.queues],
        "ranges": [each._asdict() for each in report.ranges],
        "audit": list(report.audit),
    }


def _who(arguments: dict[str, Any]) -> str:
    """Who gives an order, for the record."""
    return _text(arguments, "by")[:60] or "an operator"


def _text(arguments: dict[str, Any], name: str) -> str:
    """A text of the sender; "" where it is none: making text of a deeply nested value would be a RecursionError."""
    value = arguments.get(name)
    return value[:100] if isinstance(value, str) else ""


def acts(audit: tuple[str, ...]) -> list[dict[str, Any]]:
    """What operators did, as the disk remembers it: when, and the act."""
    found = []
    for text in audit:
        wall_ms, unit, act = text.partition(" ms ")
        found.append({"wall_ms": int(wall_ms), "act": act} if unit and wall_ms.isdigit() else {"wall_ms": 0, "act": text})
    return found


def _age(then_ms: int, now_ms: int) -> int | None:
    return None if then_ms == LONG_AGO else now_ms - then_ms
