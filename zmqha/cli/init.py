"""``zmqha init``: the directory of a new pair, and what to do with it."""

from pathlib import Path

import click

from zmqha.cli import provision
from zmqha.cli.invocation import Invocation, command, pass_invocation
from zmqha.errors import ConfigError

DEFAULT_DIRECTORY = Path("zmqha-pair")
_ROUTES = Path("/proc/net/route")


@command(
    "init",
    examples="""
    zmqha init edge-a edge-b
    zmqha init a=10.0.7.11/10.78.0.1 b=10.0.7.12/10.78.0.2 --gateway 10.0.7.1
    zmqha init a b --single-machine --port-base 7400
    """,
    takes=("format",),
)
@click.argument("first", metavar="A[=HOST[/PEERHOST]]")
@click.argument("second", metavar="B[=HOST[/PEERHOST]]")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=DEFAULT_DIRECTORY, show_default=True, help="What to make."
)
@click.option("--cluster", default="pair", show_default=True, metavar="NAME", help="What the pair is called.")
@click.option(
    "--gateway", "gateways", multiple=True, metavar="IP", help="The LAN's router (IP: ping, IP:PORT: TCP); may be repeated."
)
@click.option(
    "--data-dir", default="data", show_default=True, metavar="DIR", help="Where the stores go; the server's name is appended."
)
@click.option("--single-machine", is_flag=True, help="Both servers here, on loopback: for trying out.")
@click.option("--port-base", type=click.IntRange(1024, 65000), default=7400, show_default=True, help="With --single-machine.")
@click.option("--no-curve", is_flag=True, help="With --single-machine: no encryption.")
@pass_invocation
def init(
    invocation: Invocation,
    first: str,
    second: str,
    directory: Path,
    cluster: str,
    gateways: tuple[str, ...],
    data_dir: str,
    single_machine: bool,
    port_base: int,
    no_curve: bool,
) -> None:
    """Write configuration and keys of a new pair into one directory.

    HOST is the address on the clients' network (default: the name), PEERHOST the one on the dedicated peer link (default: HOST).
    """
    if no_curve and not single_machine:
        raise ConfigError(
            "--no-curve needs --single-machine", cause="anybody on the network could be the peer", cure="leave it out"
        )
    if single_machine:
        provision.check_name(first)
        provision.check_name(second)
        machines = provision.single_machine_pair((first, second), port_base)
    else:
        machines = provision.machine(first), provision.machine(second)
    found = gateways or (("127.0.0.1",) if single_machine else default_gateway(_ROUTES))
    plan = provision.Plan(
        directory,
        *machines,
        cluster=cluster,
        gateway_kind="tcp" if any(_has_port(address) for address in found) else "ping",
        gateway_addresses=found,
        single_machine=single_machine,
        curve=not no_curve,
        data_dir=data_dir,
    )
    file = provision.write(plan)
    if invocation.format == "json":
        invocation.result(
            "", {"directory": str(directory), "file": str(file), "gateway": found, "servers": [m.name for m in machines]}
        )
    else:
        click.echo(_next_steps(plan, guessed=bool(found) and not gateways))


def default_gateway(routes: Path) -> tuple[str, ...]:
    """The router of this machine's default route (Linux), as a first guess."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return ()
    for line in lines:
        _, destination, gateway, flags, *_ = line.split()
        if destination == "00000000" and int(flags, 16) & 2:
            return (".".join(str(part) for part in reversed(bytes.fromhex(gateway))),)
    return ()


def _has_port(address: str) -> bool:
    return address.rpartition(":")[2].isdecimal() and (address.count(":") == 1 or "]:" in address)


def _next_steps(plan: provision.Plan, *, guessed: bool) -> str:
    directory, (a, b) = plan.directory, (machine.name for machine in plan.machines)
    context = f"zmqha context add {plan.cluster} {directory}/client/context.toml --select"
    if plan.single_machine:
        return f"""\
{directory}/ is ready: two servers on this machine, for trying out. Next, in three terminals:
  1. zmqha server --config {directory}/server.toml --name {a}
  2. zmqha server --config {directory}/server.toml --name {b}
  3. {context} && zmqha status"""
    gateway = f"{' and '.join(plan.gateway_addresses)}" if plan.gateway_addresses else "missing: fill in gateway.addresses"
    advice = " (this machine's default route; correct it if that is not the clients' network)" if guessed else ""
    link = "" if plan.primary.peer_host != plan.primary.host else (
        "\nNo peer link was named, so one cable carries everything. Better: "
        f"zmqha init {a}={plan.primary.host}/PEERHOST {b}={plan.secondary.host}/PEERHOST"
    )  # fmt: skip
    return f"""\
{directory}/ is ready. Gateway: {gateway}{advice}.{link}
Next:
  1. read {directory}/server.toml, then: zmqha config check {directory}/server.toml
  2. copy {directory} to both machines; leave {b}/ off {a}, and {a}/ off {b}: those keys are each machine's own
  3. on {a}: zmqha server --config {directory}/server.toml --name {a}
     on {b}: zmqha server --config {directory}/server.toml --name {b}
  4. clients: {context} && zmqha status"""
