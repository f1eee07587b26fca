"""What can be wrong with the place that the page is served at, found before a model is loaded."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHARED = ".gradio.live"  # ends the names of public links
MAX_PORT = 65_535


def check_place(options: argparse.Namespace) -> None:
    """Find out whether the page can be served where the options say.

    Raises:
        ValueError: the port is taken or not ours to open, the address is not this machine's, or a
            certificate can't be read.
    """
    host, port = options.host.strip("[]"), options.port
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"--port is {port}, allowed are 1 to {MAX_PORT}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, UnicodeError) as error:
        raise ValueError(_place_fault(host, port, error)) from error
    _check_certificate(options)


def check_packages(options: argparse.Namespace) -> None:
    """Find out whether what the options ask for is installed.

    Raises:
        ValueError: it is not.
    """
    if options.mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError(
            "--mcp needs the package mcp, which is not installed: "
            "pip install -r requirements-mcp.txt -c requirements.lock"
        )


def _place_fault(host: str, port: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port {port} is taken: give another one with --port, or stop what uses it"
    if number == errno.EACCES:
        return f"port {port} may not be opened by this user: give one above 1023 with --port"
    return (
        f"{host} is no address of this machine: give --host 127.0.0.1, 0.0.0.0 for the whole "
        "network, or one of its own"
    )


def _check_certificate(options: argparse.Namespace) -> None:
    names = ("ssl_certfile", "ssl_keyfile")
    given = [name for name in names if getattr(options, name)]
    if len(given) == 1:
        raise ValueError("--ssl-certfile and --ssl-keyfile belong together: give both")
    for name in given:
        path = Path(getattr(options, name))
        if not path.is_file() or not os.access(path, os.R_OK):
            raise ValueError(f"--{name.replace('_', '-')} {path} is no file that can be read")
    if given:
        files = options.ssl_certfile, options.ssl_keyfile
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*files, password=_refuse_password)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--ssl-certfile {files[0]} and --ssl-keyfile {files[1]} are no certificate and "
                "its key: give PEM files that belong together, the key without a password"
            ) from error


def _refuse_password() -> str:
    """Instead of asking at the terminal."""
    raise ValueError("the key has a password")


def url_host(host: str) -> str:
    """An address as it stands in a URL: that of IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def bypass_proxy(host: str, environment: dict | os._Environ = os.environ) -> None:
    """Let requests to the page itself not go through the proxy that the environment names."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [part for part in environment.get(name, "").split(",") if part]
        environment[name] = ",".join(dict.fromkeys([*known, *LOOPBACK, host.strip("[]")]))


def is_public(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether others than this machine's users can open the page."""
    return options.share or "SPACE_ID" in environment or not is_loopback(options.host)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(address: str) -> str:
    """What counts as one address: of IPv6, the 2**64 of which a single user may take any."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return address
    if number.version == 4 or number.ipv4_mapped:
        return address
    return f"{int(number) >> 64:x}/64"


def host_check(
    options: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> Callable[[str], bool]:
    """Whether the page may be asked for under a name: its own ones, and those of the options.

    A page of another name that leads to this address could else speak with it from a visitor's
    browser.
    """
    given = [name.strip().lower() for name in options.allowed_hosts.split(",") if name.strip()]
    names = {*LOOPBACK, options.host.strip("[]").lower(), *given}
    if space := environment.get("SPACE_HOST"):
        names.add(space.lower())
    if root := urlsplit(options.root_path).hostname:
        names.add(root)
    listens_to_all = not is_loopback(options.host)
    if listens_to_all:
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}

    def is_host(name: str) -> bool:
        if "*" in names or name in names or (options.share and name.endswith(SHARED)):
            return True
        return listens_to_all and _is_address(name)

    return is_host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
