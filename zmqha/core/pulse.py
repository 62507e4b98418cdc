"""The pulse of the pair: when to send a Beat, answer one, probe the gateway, rebuild a path.

Keeps ``contact`` and ``vote`` up to date and decides nothing from them; ``ha`` does. Rules F1, F4 (in ``contact``) and the periods
of ``timers``: a Beat every heartbeat_ms on every path, every FAST_BEAT_MS while contact is not fresh, at once when facts change.
"""

from zmqha.core.actions import Action, ProbeGateway, ResetPath, SendControl
from zmqha.core.contact import LONG_AGO, Contact
from zmqha.core.outbox import Outbox
from zmqha.core.peer_protocol import Beat, Control, Drop, Echo, Grant, Hello
from zmqha.core.timers import FAST_BEAT_MS, Timers
from zmqha.core.vote import Vote


class Pulse(Outbox[Action]):
    """Sends and hears what keeps contact; owned by ``HA``."""

    def __init__(self, timers: Timers, contact: Contact, vote: Vote) -> None:
        super().__init__()
        self.timers = timers
        self.contact = contact
        self.vote = vote
        self._beat_ms = LONG_AGO  # when the last Beat was sent
        self._probe_ms = LONG_AGO  # likewise the last probe

    def hear(self, path: int, message: Control, now_ms: int) -> bool:
        """Take a control message into ``contact``; True if facts of the peer changed."""
        contact = self.contact
        match message:
            case Hello():
                return contact.hear_hello(path, message, now_ms, self.timers.lost_ms)
            case Beat():
                if message.session == contact.peer_session:
                    echo = Echo(contact.session, message.session, message.seq, message.sent_ms)
                    self.actions.append(SendControl(path, echo))
                return contact.hear_beat(path, message, now_ms)
            case Echo():
                contact.hear_echo(path, message, now_ms, self.timers.lost_ms)
                return False
            case Grant() | Drop():
                return False
        raise AssertionError(message)

    def beat(self, beat: Beat, hello: Hello, now_ms: int) -> None:
        """Send these facts on every path now."""
        if self.contact.knows != (hello.session, hello.number):
            self.actions.append(SendControl(None, hello))
        self.actions.append(SendControl(None, beat))
        self._beat_ms = now_ms

    def beat_due(self, now_ms: int) -> bool:
        """Is it time for the next Beat."""
        return now_ms >= self._beat_ms + self._beat_period_ms(now_ms)

    def probe_now(self, now_ms: int) -> None:
        """Ask the gateway at once (T8e)."""
        if self.vote.configured:
            self.actions.append(ProbeGateway(now_ms))
            self._probe_ms = now_ms

    def tick(self, now_ms: int) -> None:
        """Probe and rebuild what is due."""
        if now_ms >= self._probe_ms + self._probe_period_ms(now_ms):
            self.probe_now(now_ms)
        reset_ms = self.timers.reset_ms
        for index, path in enumerate(self.contact.paths):
            # A new session, own or the peer's, begins without contact; the connection that brought it is well.
            contact_ms = max(path.contact_ms, self.contact.opened_ms)
            deaf = now_ms - path.heard_ms > self.timers.lost_ms or now_ms - contact_ms > reset_ms
            if deaf and now_ms - path.reset_ms > reset_ms:
                self.reset(index, now_ms)

    def reset(self, index: int, now_ms: int) -> None:
        """Rebuild one path."""
        self.contact.paths[index].reset_ms = now_ms
        self.actions.append(ResetPath(index))

    def deadline_ms(self, now_ms: int) -> int:
        """When ``tick`` or a Beat is needed next, as things stand now."""
        beat_ms = self._beat_ms + self._beat_period_ms(now_ms)
        return min(beat_ms, self._probe_ms + self._probe_period_ms(now_ms)) if self.vote.configured else beat_ms

    def stale(self, now_ms: int) -> bool:
        """Is the newest contact too old to rest a one-shot decision on."""
        return now_ms - self.contact.contact_ms > self.timers.fresh_ms

    def _beat_period_ms(self, now_ms: int) -> int:
        return FAST_BEAT_MS if self.stale(now_ms) else self.timers.heartbeat_ms

    def _probe_period_ms(self, now_ms: int) -> int:
        return self.timers.probe_ms if self.stale(now_ms) else self.timers.probe_idle_ms
