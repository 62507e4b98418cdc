"""What operators ask and order: status, why, history, switchover, promote, resync, merge. Pure; answers are plain maps (ADMIN).

The last sentence of ``status`` says what would be lost if either server died *now*; it is computed from the same facts that confirms
rest on, so it must be changed together with ``broker._durable_txn``.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from zmqha.core.client_protocol import VERSION as PROTOCOL
from zmqha.core.contact import LONG_AGO
from zmqha.core.merge_report import MergeReport
from zmqha.core.peer_protocol import Beat, Standing, State, Sub
from zmqha.core.refusal import refusal
from zmqha.core.view import SERVING
from zmqha.core.why import why
from zmqha.errors import NotActive, OperationFailed, Unfinished

if TYPE_CHECKING:
    from zmqha.core.broker import Broker
    from zmqha.core.ha import HA


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
                return {**why(broker.ha, now_ms), "cure": self.cure(broker, now_ms), "acts": acts(broker.ha.durable.audit)}
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
            "sentence": self.sentence(broker, now_ms),
            "merges": len(broker.service.merge_reports) if broker.serving else None,
            "needs_operator": bool(
                self._branch_waits(broker)
                or ha.contact.foreign
                or (heard and ha.mismatch())
                or self._damage_needs_operator(ha, heard)
            ),
        }

    def sentence(self, broker: "Broker", now_ms: int) -> str:
        """What losing a server now would cost, in one sentence."""
        ha = broker.ha
        peer = ha.peer
        heard = peer is not None and ha.heard(now_ms)
        me, other = ha.identity.node_id, ha.identity.peer_id
        in_sync = (ha.state is State.ACTIVE and ha.granted) or ha.state is State.PASSIVE
        if in_sync and heard:
            return "Losing either server now loses 0 acknowledged messages."
        if ha.state is State.STANDALONE and not other:
            return f"{me} runs without a peer: losing it loses every message it holds."
        if ha.state is State.STANDALONE:
            doing = "is copying" if heard and peer is not None and peer.state is State.PASSIVE_SYNC else "is not in sync"
            return (
                f"{me} serves alone, {other} {doing}: losing {me} now loses every message confirmed since epoch "
                f"{ha.epoch.counter} and not yet consumed."
            )
        if ha.state is State.PASSIVE_SYNC:
            return f"{me} is copying: losing {other} now loses acknowledged messages that only {other} holds."
        if heard and peer is not None and peer.state in (State.ACTIVE, State.STANDALONE):
            return f"{other} serves, {me} waits: {self.waits_for(broker, now_ms)}"
        return f"Nobody serves: {self.waits_for(broker, now_ms)}"

    def waits_for(self, broker: "Broker", now_ms: int) -> str:
        """Why a server does not serve, and the cure."""
        ha = broker.ha
        heard = ha.heard(now_ms)
        me, other = ha.identity.node_id, ha.identity.peer_id
        if ha.contact.foreign:
            return f"{ha.contact.foreign} speaks on the peer port of {me}; this is not its peer, check the configuration."
        if ha.no_room:
            return f"{me} cannot look at its store: {ha.no_room}. Free disk space; it looks again every second."
        if ha.diverged is not None:
            return f"both stores hold confirmed messages that the other lacks ({ha.diverged.why}); {self._branch(broker, now_ms)}"
        if heard and ha.mismatch():
            return f"{ha.mismatch()}; they cannot copy from each other."
        if ha.facts.doubted:
            return (
                f"the store of {me} is damaged ({ha.facts.reason}) and is copied again as soon as {other or 'a peer'} serves. "
                f"To serve what it holds all the same: zmqha promote --accept-loss-of-peer on {me}."
            )
        if heard and ha.peer_lost_newer():
            return (
                f"{other} served alone after {me} was in sync, and its store cannot be used ({ha.peer.reason if ha.peer else ''}). "
                f"zmqha promote --accept-loss-of-peer on {other} serves what is left there; on {me} it loses what {other} took alone."
            )
        if heard and ha.neither_may_serve():
            assert ha.peer is not None
            return (
                f"neither store may be used by itself: that of {me} is {ha.facts.standing} ({ha.facts.reason or ha.reason}), "
                f"that of {other} {ha.peer.standing} ({ha.peer.reason}). zmqha promote --accept-loss-of-peer on one of them serves "
                "what it holds; the other copies."
            )
        if heard:
            return f"{me} has contact with {other} and settles with it now ({ha.reason})."
        match ha.durable.standing:
            case Standing.SOLE:
                return f"{me} holds the newest data and waits for its gateway to answer."
            case Standing.NEW:
                cure = f"start {other}, or: zmqha promote --accept-loss-of-peer"
                return f"{me} has never held data and cannot know whether {other} does; {cure}."
            case Standing.BEHIND:
                cure = "last resort: zmqha promote --accept-loss-of-peer"
                return f"{me} is missing messages that {other} holds and waits for it; {cure}."
            case _:
                return (
                    f"{me} was in sync at epoch {ha.durable.epoch}, but {other} may have gone on alone since; it waits for {other}. "
                    f"If {other} is lost for good: zmqha promote --accept-loss-of-peer."
                )

    def cure(self, broker: "Broker", now_ms: int) -> str:
        """What an operator can do about a server's state; "" where there is nothing to be done."""
        ha, other = broker.ha, broker.ha.identity.peer_id
        heard = ha.peer is not None and ha.heard(now_ms)
        if ha.state is State.WAITING:
            return self.waits_for(broker, now_ms)
        if not other:
            return "one server is configured; a pair needs two blocks [server.NAME] in the file"
        if not heard:
            return f"{other} is not heard: start it, or look at its network; see docs/operations.md, One server is down"
        if ha.state is State.STANDALONE and ha.peer_state() is State.WAITING:
            return f"{other} is there and does not copy: ask it with zmqha why {other}"
        if ha.state in (State.STANDALONE, State.PASSIVE_SYNC):
            return "wait: the copy is under way"
        return ""

    def _damage_needs_operator(self, ha: "HA", heard: bool) -> bool:
        """Nobody serves, and nobody will by itself: one store is damaged, the other lacks what that one confirmed alone."""
        served = heard and ha.peer is not None and ha.peer.state in SERVING
        return ha.state is State.WAITING and not served and (ha.facts.doubted or (heard and ha.peer_lost_newer()))

    def _branch_waits(self, broker: "Broker") -> bool:
        """Does this server hold a branch that it does not hand over by itself."""
        ha = broker.ha
        return ha.diverged is not None and (not ha.hands_over or bool(ha.keep_refused))

    def _branch(self, broker: "Broker", now_ms: int) -> str:
        """What becomes of the branch of a server that lost."""
        ha = broker.ha
        me, other = ha.identity.node_id, ha.identity.peer_id
        give_up = f"to give up those of {me}: zmqha resync --discard-own (its files are kept aside)."
        if broker.lost_branch.discarding:
            return f"{me} was told to give its own up and cannot write that down ({ha.keep_refused}); it tries again."
        if ha.merging and ha.keep_refused:
            return f"{other} holds those of {me} now, and {me} cannot write that down ({ha.keep_refused}); it tries again."
        if ha.keep_refused:
            return f"{me} cannot keep its store before it hands them over ({ha.keep_refused}); it tries again. Or {give_up}"
        if ha.merging:
            sent, durable = broker.lost_branch.progress
            return f"{me} hands its own over to {other} now ({durable} of {sent} pieces are durable there)."
        if ha.hands_over:
            return f"{me} hands its own over once {other} serves in fresh contact; nothing is to be done."
        return f"to hand those of {me} over: zmqha merge (first: zmqha merge --dry-run); {give_up}"

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
                f"no server {to!r} here",
                cause=f"the other server is {ha.identity.peer_id!r}",
                cure=f"zmqha switchover --to {ha.identity.peer_id}",
            )
        if ha.sub(now_ms) is Sub.LEAVING:
            raise OperationFailed("a switchover is under way already", cause=ha.reason, cure="wait, then look at `zmqha status`")
        reason = str(arguments.get("reason") or "")
        ha.leave("switchover by an operator" + (f" ({reason[:100]})" if reason else ""), now_ms, exit=False)
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
                cause="the divergence was just noticed",
                cure="try again in a second",
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
    return str(arguments.get("by") or "an operator")[:60]


def acts(audit: tuple[str, ...]) -> list[dict[str, Any]]:
    """What operators did, as the disk remembers it: when, and the act."""
    found = []
    for text in audit:
        wall_ms, unit, act = text.partition(" ms ")
        found.append({"wall_ms": int(wall_ms), "act": act} if unit and wall_ms.isdigit() else {"wall_ms": 0, "act": text})
    return found


def _age(then_ms: int, now_ms: int) -> int | None:
    return None if then_ms == LONG_AGO else now_ms - then_ms
