"""One HA machine, a puppet for its peer, a gateway and a store that answer at the next step. The tests pull the strings."""

from dataclasses import dataclass, field
from random import Random

from zmqha.core import actions as act
from zmqha.core.events import Inspected
from zmqha.core.facts import NodeFacts
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import NO_SESSION, VERSION, Beat, Control, Echo, Grant, Hello, Session, Standing, State, Sub
from zmqha.core.position import GENESIS, NO_EPOCH, NOWHERE, Epoch, Lineage, LineageEntry, Mode, Position
from zmqha.core.timers import Timers
from zmqha.core.view import Identity

STEP_MS = 10
E1, E2, E3 = Epoch(1, 11), Epoch(2, 22), Epoch(3, 33)


def at(epoch: Epoch, txn: int, mark: int = 0) -> Position:
    """A position; another mark is another chain."""
    return Position(epoch, txn, bytes([txn % 256, mark]) * 16)


def entry(epoch: Epoch, mode: Mode, first: int, writer: str = "a", mark: int = 0) -> LineageEntry:
    """An epoch that began on top of ``at(..., first - 1)``."""
    return LineageEntry(epoch, mode, first, at(epoch, first - 1, mark).chain if first > 1 else GENESIS, writer)


LINE: Lineage = (entry(E1, Mode.SOLE, 1), entry(E2, Mode.PAIRED, 5))


@dataclass
class Peer:
    """What the peer says, several times a second while it ``speaks``; it answers Beats while it ``echoes``."""

    session: Session = field(default_factory=lambda: Session(7, 1))
    state: State = State.WAITING
    sub: Sub = Sub.NONE
    standing: Standing = Standing.PAIRED
    epoch: Epoch = E2
    position: Position = field(default_factory=lambda: at(E2, 9))
    lineage: Lineage = LINE
    right: bool = True
    hears: bool = True
    gateway: bool | None = True
    follows: Session = NO_SESSION
    digest: int = 0
    version: int = VERSION
    primary: bool = False
    node_id: str = "b"
    speaks: bool = True
    echoes: bool = True
    knows: Session | None = None  # the session of ours that it speaks to; None: the present one
    seq: int = 0
    number: int = 1


class Rig:
    """Drives one HA in steps of STEP_MS."""

    def __init__(
        self, *, standing: Standing = Standing.PAIRED, primary: bool = True, position: Position | None = None, peer: bool = True,
        lineage: Lineage = LINE, epoch: Epoch = E2, peer_high: int = 0, resume_alone: bool = False,
        merges: bool = True,
    ) -> None:  # fmt: skip
        facts = NodeFacts("cf", "a", incarnation=5, epoch=epoch if standing is not Standing.NEW else NO_EPOCH, standing=standing)
        self.now_ms = 1_000_000
        self.peer = Peer(primary=not primary)
        self.gateway = True
        self.store_answers = True
        self.done: list[act.Action] = []
        self.position = position or (NOWHERE if standing is Standing.NEW else at(E2, 9))
        self.lineage: Lineage = () if standing is Standing.NEW else lineage
        self.peer_high = peer_high
        self.fault = ""
        self.no_room = False
        identity = Identity("cf", "a", "b" if peer else "", primary, "tcp://a:7400", resume_alone=resume_alone, merges=merges)
        self.ha = HA(identity, Timers(), facts, Random(1), self.now_ms, gateway=peer)
        self._store: list[act.Action] = []
        self._echoes: list[tuple[int, Echo]] = []
        self._probes: list[tuple[int, int]] = []
        self._beat_ms = 0
        self._carry_out()

    # --- strings ------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One turn of the loop."""
        self.now_ms += STEP_MS
        ha = self.ha
        ha.begin_turn(self.now_ms)
        if self.peer.speaks and self.now_ms - self._beat_ms >= 50:
            self.say()
        echoes, self._echoes = self._echoes, []
        for path, echo in echoes:
            ha.hear(path, echo, self.now_ms)
        for probe in [probe for probe in self._probes if self.gateway or self.now_ms - probe[0] >= 200]:
            self._probes.remove(probe)
            ha.probed(probe[1], self.gateway)
        if self.store_answers:
            self.answer_store()
        ha.tick(self.now_ms)
        self._carry_out()

    def run(self, for_ms: int) -> None:
        """Time passes."""
        for _ in range(for_ms // STEP_MS):
            self.step()

    def stop(self, for_ms: int) -> None:
        """The process is stopped, then goes on."""
        self.now_ms += for_ms - STEP_MS
        self.step()

    def say(self, **fields: object) -> None:
        """A Beat of the peer on both paths now, with other facts from here on."""
        peer = self.peer
        for name, value in fields.items():
            setattr(peer, name, value)
        self._beat_ms = self.now_ms
        peer.seq += 1
        hello = Hello(
            peer.session,
            peer.number,
            peer.version,
            "cf",
            peer.node_id,
            peer.primary,
            4096,
            1,
            True,
            peer.lineage,
            "tcp://b:7400",
        )
        knows = (self.ha.contact.session if peer.knows is None else peer.knows, 1)
        beat = Beat(
            peer.session, peer.seq, self.now_ms + 5_000_000, peer.state, peer.sub, "", peer.standing, peer.epoch, peer.position,
            peer.right, peer.hears, peer.gateway, 0, False, knows, peer.follows,
            digest=peer.digest,
        )  # fmt: skip
        for path in (0, 1):
            self.ha.hear(path, hello, self.now_ms)
            self.ha.hear(path, beat, self.now_ms)

    def silence(self) -> None:
        """Nothing comes from the peer any more."""
        self.peer.speaks = self.peer.echoes = False
        self._echoes.clear()

    def hear(self, message: Control) -> None:
        """One message of the peer."""
        self.ha.hear(0, message, self.now_ms)

    def answer_store(self) -> None:
        """The store did everything that was asked for."""
        asked, self._store = self._store, []
        ha = self.ha
        for action in asked:
            match action:
                case act.StandDown() | act.Claim() if self.no_room:
                    ha.has_no_room("the disk is full", self.now_ms)
                case act.StandDown(discard):
                    if discard:
                        self.position, self.lineage = NOWHERE, ()
                    present = self.position != NOWHERE
                    ha.inspected(Inspected(present, self.position, self.lineage, self.peer_high, self.fault), self.now_ms)
                case act.SaveFacts() | act.Follow():
                    ha.facts_saved(self.now_ms)
                case act.Claim(epoch=epoch):
                    self._begin(epoch, Mode.SOLE)
                    ha.claimed(self.position, self.lineage, self.now_ms)
                case act.PairUp(epoch=epoch):
                    self._begin(epoch, Mode.PAIRED)
                    ha.paired(self.position, self.lineage, self.now_ms)

    def halt(self, why: str) -> None:
        """A commit came upon damage: what was asked for is not done."""
        self._store = [action for action in self._store if not isinstance(action, act.Claim | act.PairUp)]
        self.ha.damaged(why, halted=True)

    def _begin(self, epoch: Epoch, mode: Mode) -> None:
        self.lineage = (*self.lineage, LineageEntry(epoch, mode, self.position.txn + 1, self.position.chain, "a"))
        self.position = at(epoch, self.position.txn + 1)

    def _carry_out(self) -> None:
        for action in self.ha.take_actions() + self.ha.pulse.take_actions():
            self.done.append(action)
            match action:
                case act.SendControl(path, Beat() as beat):
                    if self.peer.echoes:
                        echo = Echo(self.peer.session, beat.session, beat.seq, beat.sent_ms)
                        self._echoes += [(each, echo) for each in ((0, 1) if path is None else (path,))]
                case act.ProbeGateway(sent_ms):
                    self._probes.append((self.now_ms, sent_ms))
                case act.StandDown() | act.SaveFacts() | act.Follow() | act.Claim() | act.PairUp():
                    self._store.append(action)

    # --- what is seen -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.ha.state

    def asked(self, kind: type[act.Action]) -> list[act.Action]:
        """Actions of this kind so far."""
        return [action for action in self.done if isinstance(action, kind)]

    def last_beat(self) -> Beat:
        """What was told last."""
        return [
            action.message for action in self.done if isinstance(action, act.SendControl) and isinstance(action.message, Beat)
        ][-1]

    def grants(self) -> list[Grant]:
        """Grants sent so far."""
        return [
            action.message for action in self.done if isinstance(action, act.SendControl) and isinstance(action.message, Grant)
        ]

    # --- where stories begin --------------------------------------------------------------------------------------------------

    def meet(self) -> "Rig":
        """Contact with the peer."""
        self.run(200)
        assert self.ha.fresh(self.now_ms)
        return self

    def standalone(self) -> "Rig":
        """T3: elected; the peer waits with less."""
        self.say(state=State.WAITING, standing=Standing.PAIRED, epoch=E1, position=at(E1, 4))
        self.run(200)
        assert self.state is State.STANDALONE, self.ha.reason
        return self

    def feeding(self) -> "Rig":
        """STANDALONE, the peer copies and keeps up; T14 is only a question of time."""
        self.standalone()
        self.say(state=State.PASSIVE_SYNC, standing=Standing.BEHIND, follows=self.ha.contact.session)
        self.ha.in_sync = True
        return self

    def active(self) -> "Rig":
        """T14 and the peer's acceptance."""
        self.feeding()
        self.run(1500)
        assert self.state is State.ACTIVE, self.ha.reason
        self.say(state=State.PASSIVE, standing=Standing.PAIRED, epoch=self.ha.epoch, position=self.ha.position)
        self.run(100)
        assert self.ha.granted
        return self

    def copying(self) -> "Rig":
        """T2."""
        lineage = (*LINE, entry(E3, Mode.SOLE, 10))
        self.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=E3, position=at(E3, 12), lineage=lineage)
        self.peer.number += 1
        self.run(200)
        assert self.state is State.PASSIVE_SYNC, self.ha.reason
        return self

    def passive(self) -> "Rig":
        """T15."""
        self.copying()
        granted = at(Epoch(4, 44), 13)
        self.ha.advanced(granted)
        self.position = granted
        self.say(state=State.ACTIVE, sub=Sub.GRANTING, standing=Standing.PAIRED, epoch=granted.epoch, position=granted)
        self.hear(Grant(self.peer.session, self.ha.contact.session, granted))
        self.say(sub=Sub.NONE)
        self.run(100)
        assert self.state is State.PASSIVE, self.ha.reason
        return self
