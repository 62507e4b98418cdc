"""A small network of real namespaces: LAN bridge with a, b, client and gateway; a peer link of its own between a and b.

Everything, the bridge included, lives in namespaces named ``zmqlab-PID-...``: deleting those removes every interface, address and
rule, and nothing of it is visible in the namespace of the machine. What a dead run left behind is removed by the next one. Faults
are the ones of a real network (carrier, packet filter, queueing discipline); ``heal`` ends all of them.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PREFIX = "zmqlab"
LAN = {"a": "10.77.0.1", "b": "10.77.0.2", "client": "10.77.0.10", "gateway": "10.77.0.254"}
PEER = {"a": "10.78.0.1", "b": "10.78.0.2"}
OTHER = {"a": "b", "b": "a"}
CLONE_NEWNET = 0x40000000  # <sched.h>
_numbers = itertools.count(1)


def missing() -> str:
    """Why no lab can be built here; "" if one can."""
    if os.geteuid() != 0:
        return "not root: network namespaces cannot be made"
    absent = [tool for tool in ("ip", "iptables-restore", "ping", "tc", "ethtool") if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, timeout=10)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    _remove(probe)
    return ""


def remove_leftovers() -> None:
    """Namespaces of test runs that have ended, with the processes in them."""
    for name in _namespaces():
        prefix, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if prefix == PREFIX and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            _remove(name)


class Net:
    """One such network. ``wire``: the peer link goes through a namespace where ``wire.py`` forwards its frames."""

    def __init__(self, *, wire: bool = False) -> None:
        self._number = next(_numbers)
        self._wire: subprocess.Popen[bytes] | None = None
        self._members = ("lan", *LAN, *(("wire",) if wire else ()))
        self._reordered: set[str] = set()  # who has packet filter rules or a queueing discipline

    def build(self, settings: Path | None = None) -> None:
        """Make it; ``settings`` is the file of the wire."""
        for who in self._members:
            _run("ip", "netns", "add", self.namespace(who))
            self.ip(who, "link", "set", "lo", "up")
        self.ip("lan", "link", "add", "name", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        self.ip("lan", "link", "set", "switch", "up")
        for who, address in LAN.items():
            self.ip("lan", "link", "add", f"to-{who}", "type", "veth", "peer", "name", "lan", "netns", self.namespace(who))
            self.ip("lan", "link", "set", f"to-{who}", "master", "switch", "up")
            self._address(who, "lan", f"{address}/24")
        if settings is None:
            self.ip("a", "link", "add", "peer", "type", "veth", "peer", "name", "peer", "netns", self.namespace("b"))
        for who, end in (("a", "w0"), ("b", "w1")):
            if settings is not None:
                self.ip("wire", "link", "add", end, "type", "veth", "peer", "name", "peer", "netns", self.namespace(who))
                self.ip("wire", "link", "set", end, "up")
                # A frame put back on a wire must carry a finished checksum.
                for where, name in (("wire", end), (who, "peer")):
                    self.run(where, "ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
            self._address(who, "peer", f"{PEER[who]}/30")
        if settings is not None:
            script = Path(__file__).parent / "wire.py"
            self._wire = subprocess.Popen([*self.prefix("wire"), sys.executable, str(script), "w0", "w1", str(settings)])

    def close(self) -> None:
        """Remove all of it, whatever state it is in."""
        if self._wire is not None:
            self._wire.kill()
            self._wire.wait()
        for who in self._members:
            _remove(self.namespace(who))

    def namespace(self, who: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{self._number}-{who}"

    def prefix(self, who: str) -> list[str]:
        """What stands before a program that is to run there; its pid is the program's."""
        return ["ip", "netns", "exec", self.namespace(who)]

    @contextlib.contextmanager
    def inside(self, who: str) -> Iterator[None]:
        """This thread, and every thread that it starts meanwhile, makes its sockets there."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.namespace(who)}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def run(self, who: str, *command: str, text: str | None = None) -> str:
        """The output of a short command run there."""
        return _run(*self.prefix(who), *command, text=text)

    def ip(self, who: str, *command: str) -> None:
        _run("ip", "-n", self.namespace(who), *command)

    # --- faults -------------------------------------------------------------------------------------------------------------

    def filter(self, who: str, *rules: str) -> None:
        """Add packet filter rules, all at the same moment."""
        self._reordered.add(who)
        lines = "\n".join(("*filter", *(f"-A {rule}" for rule in rules), "COMMIT", ""))
        self.run(who, "iptables-restore", "--noflush", "-w", text=lines)

    def cut_peer_silently(self) -> None:
        """Frames on the peer link vanish; nobody loses carrier."""
        self.filter("a", "INPUT -i peer -j DROP", "OUTPUT -o peer -j DROP")

    def cut_peer_carrier(self) -> None:
        """As if the cable were pulled: a sees no carrier, b's port is down."""
        self.ip("b", "link", "set", "peer", "down")

    def cut_lan(self, who: str) -> None:
        """The switch port goes down: off the LAN, gateway and clients included."""
        self.ip("lan", "link", "set", f"to-{who}", "down")

    def join_lan(self, who: str) -> None:
        self.ip("lan", "link", "set", f"to-{who}", "up")

    def isolate(self, who: str) -> None:
        """Silently, from everything."""
        self.filter(who, "INPUT ! -i lo -j DROP", "OUTPUT ! -o lo -j DROP")

    def pull_both(self, who: str) -> None:
        """Carrier loss on LAN and peer link."""
        self.cut_lan(who)
        self.ip(OTHER[who], "link", "set", "peer", "down")

    def deafen(self, who: str, *paths: str) -> None:
        """One way, on these paths, else both: nothing of the other server's arrives at ``who``, who can still talk to it."""
        rules = {"peer": "OUTPUT -o peer -j DROP", "lan": f"OUTPUT -o lan -d {LAN[who]} -j DROP"}
        self.filter(OTHER[who], *(rules[path] for path in paths or rules))

    def reset_both_paths(self, who: str) -> None:
        """TCP between the two is answered with resets, in both directions, as by a firewall."""
        other = LAN[OTHER[who]]
        reject = "-p tcp -j REJECT --reject-with tcp-reset"
        self.filter(
            who, f"INPUT -i peer {reject}", f"INPUT -i lan -s {other} {reject}",
            f"OUTPUT -o peer {reject}", f"OUTPUT -o lan -d {other} {reject}",
        )  # fmt: skip

    def cut_lan_between(self) -> None:
        """a and b no longer hear each other on the LAN; both still reach gateway and clients."""
        self.filter("a", f"INPUT -i lan -s {LAN['b']} -j DROP", f"OUTPUT -o lan -d {LAN['b']} -j DROP")

    def pull(self, link: str) -> None:
        """The cable of this link: ``peer``, or the switch port of this member."""
        if link == "peer":
            self.cut_peer_carrier()
        else:
            self.cut_lan(link)

    def plug(self, link: str) -> None:
        """And back again."""
        if link == "peer":
            self.ip("b", "link", "set", "peer", "up")
        else:
            self.join_lan(link)

    def reset_peer_link(self) -> None:
        """TCP on the peer link is answered with resets."""
        reject = "-p tcp -j REJECT --reject-with tcp-reset"
        self.filter("a", f"INPUT -i peer {reject}", f"OUTPUT -o peer {reject}")

    def mute_gateway(self) -> None:
        """It no longer answers pings."""
        self.filter("gateway", "INPUT -p icmp --icmp-type echo-request -j DROP")

    def swallow_large_frames(self) -> None:
        """An MTU black hole on the peer link: what is larger than 1000 bytes vanishes."""
        large = "-m length --length 1000:65535 -j DROP"
        self.filter("a", f"INPUT -i peer {large}", f"OUTPUT -o peer {large}")

    def slow_peer(self, rate: str) -> None:
        """A thin peer link, both ways, with a queue of 400 ms."""
        for who in ("a", "b"):
            self._reordered.add(who)
            self.run(who, "tc", "qdisc", "add", "dev", "peer", "root", "tbf", "rate", rate, "burst", "4kb", "latency", "400ms")

    def unfilter(self, who: str) -> None:
        """No packet filter rules there any more."""
        self.run(who, "iptables-restore", "-w", text="*filter\n:INPUT ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n")

    def heal(self) -> None:
        """End every fault."""
        for who in sorted(self._reordered):
            self.unfilter(who)
            if who in PEER:
                subprocess.run(
                    [*self.prefix(who), "tc", "qdisc", "del", "dev", "peer", "root"], capture_output=True, timeout=10
                )  # fails where there is none
        self._reordered.clear()
        for who in PEER:
            self.ip(who, "link", "set", "peer", "up")
        for who in LAN:
            self.join_lan(who)

    def received_bytes(self, who: str, interface: str) -> int:
        """How much has arrived there so far."""
        return int(self.run(who, "cat", f"/sys/class/net/{interface}/statistics/rx_bytes"))

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _address(self, who: str, interface: str, address: str) -> None:
        self.ip(who, "addr", "add", address, "dev", interface)
        self.ip(who, "link", "set", interface, "up")


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=10)
    return [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]


def _remove(name: str) -> None:
    """End what still runs in a namespace of ours, then delete it."""
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, timeout=10)
    for pid in inside.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10)


def _enter(namespace: int) -> None:
    """Python has no name for this before 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
