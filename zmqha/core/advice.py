"""What the state of a server means to an operator, in a sentence, and what to do about it. Pure, and it changes nothing.

``sentence`` says what would be lost if either server died *now*; it rests on the same facts as confirms do, so it must be changed
together with ``group_commit.durable_txn``.
"""

from zmqha.core.ha import HA
from zmqha.core.lost_branch import LostBranch
from zmqha.core.peer_protocol import Standing, State
from zmqha.core.view import SERVING


def sentence(ha: HA, lost: LostBranch, now_ms: int) -> str:
    """What losing a server now would cost, in one sentence."""
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
    if heard and peer is not None and peer.state in SERVING:
        return f"{other} serves, {me} waits: {waits_for(ha, lost, now_ms)}"
    return f"Nobody serves: {waits_for(ha, lost, now_ms)}"


def waits_for(ha: HA, lost: LostBranch, now_ms: int) -> str:
    """Why a server does not serve, and the cure."""
    heard = ha.heard(now_ms)
    me, other = ha.identity.node_id, ha.identity.peer_id
    if ha.contact.foreign:
        return f"{ha.contact.foreign} speaks on the peer port of {me}; this is not its peer, check the configuration."
    if ha.no_room:
        return f"{me} cannot look at its store: {ha.no_room}. Free disk space; it looks again every second."
    if ha.diverged is not None:
        return f"both stores hold confirmed messages that the other lacks ({ha.diverged.why}); {_of_branch(ha, lost)}"
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


def cure(ha: HA, lost: LostBranch, now_ms: int) -> str:
    """What an operator can do about a server's state; "" where there is nothing to be done."""
    other = ha.identity.peer_id
    heard = ha.peer is not None and ha.heard(now_ms)
    if ha.state is State.WAITING:
        return waits_for(ha, lost, now_ms)
    if not other:
        return "one server is configured; a pair needs two blocks [server.NAME] in the file"
    if not heard:
        return f"{other} is not heard: start it, or look at its network; see docs/operations.md, One server is down"
    if ha.state is State.STANDALONE and ha.peer_state() is State.WAITING:
        return f"{other} is there and does not copy: ask it with zmqha why {other}"
    if ha.state in (State.STANDALONE, State.PASSIVE_SYNC):
        return "wait: the copy is under way"
    return ""


def needs_operator(ha: HA, now_ms: int) -> bool:
    """Will nothing happen by itself."""
    heard = ha.peer is not None and ha.heard(now_ms)
    return bool(_branch_waits(ha) or ha.contact.foreign or (heard and ha.mismatch()) or _damage_stays(ha, heard))


def _damage_stays(ha: HA, heard: bool) -> bool:
    """Nobody serves, and nobody will by itself: one store is damaged, the other lacks what that one confirmed alone."""
    served = heard and ha.peer is not None and ha.peer.state in SERVING
    return ha.state is State.WAITING and not served and (ha.facts.doubted or (heard and ha.peer_lost_newer()))


def _branch_waits(ha: HA) -> bool:
    """Does this server hold a branch that it does not hand over by itself."""
    return ha.diverged is not None and (not ha.hands_over or bool(ha.keep_refused))


def _of_branch(ha: HA, lost: LostBranch) -> str:
    """What becomes of the branch of a server that lost."""
    me, other = ha.identity.node_id, ha.identity.peer_id
    give_up = f"to give up those of {me}: zmqha resync --discard-own (its files are kept aside)."
    if lost.discarding:
        return f"{me} was told to give its own up and cannot write that down ({ha.keep_refused}); it tries again."
    if ha.merging and ha.keep_refused:
        return f"{other} holds those of {me} now, and {me} cannot write that down ({ha.keep_refused}); it tries again."
    if ha.keep_refused:
        return f"{me} cannot keep its store before it hands them over ({ha.keep_refused}); it tries again. Or {give_up}"
    if ha.merging:
        sent, durable = lost.progress
        return f"{me} hands its own over to {other} now ({durable} of {sent} pieces are durable there)."
    if ha.hands_over:
        return f"{me} hands its own over once {other} serves in fresh contact; nothing is to be done."
    return f"to hand those of {me} over: zmqha merge (first: zmqha merge --dry-run); {give_up}"
