"""A PostgreSQL of the tests' own: Debian's, in a temporary folder, on a unix socket and by TLS."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import trustme

from tests.limits import wait_until
from tests.live.harness.servers import free_port

PASSWORD = "throwaway-5432"

# Nothing here outlives the tests, and nothing waits for the disk.
_CONFIGURATION = """
listen_addresses = '{host}'
port = {port}
ssl = on
ssl_cert_file = '{folder}/server.pem'
ssl_key_file = '{folder}/server.key'
unix_socket_directories = '{folder}'
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
shared_buffers = 16MB
max_connections = 60
max_wal_senders = 0
wal_level = minimal
"""


def why_no_postgresql() -> str | None:
    """Why there is none here; None: there is one."""
    if _programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if shutil.which("setpriv") is None:
        return "without util-linux's setpriv PostgreSQL would outlive the tests"
    if os.getuid() == 0 and _owner() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return None


def _programs() -> Path | None:
    """The folder of initdb; Debian keeps it out of PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def _owner() -> str | None:
    """Who runs it when the tests run as root; "" stands for ourselves."""
    if os.getuid() != 0:
        return ""
    names = {user.pw_name for user in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


class PostgreSQL:
    """A cluster that is stopped and removed by ``close``.

    Args:
        host: the address of this machine that it listens on; its neighbours may log in too.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        programs, owner = _programs(), _owner()
        assert programs is not None
        assert owner is not None
        self._programs = programs
        self._made: set[str] = set()
        self._as_owner = ["setpriv", *(["--clear-groups", "--reuid", owner] if owner else [])]
        # Not pytest's folder: another user cannot enter that, and a socket's path must be short.
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="ledger-pg-")), free_port()
        self.authority = self.folder / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(self.folder / "server.pem")
        (self.folder / "server.key").write_bytes(issued.private_key_pem.bytes())
        (self.folder / "server.key").chmod(0o600)
        (self.folder / "password").write_text(PASSWORD)
        if owner:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, owner)
        data = self.folder / "data"
        # Nobody else can enter the folder of the socket.
        initdb = [programs / "initdb", "--username=ledger", "--no-sync", "--locale=C.UTF-8"]
        initdb += ["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=password"]
        done = subprocess.run(
            [*self._as_owner, *initdb, "--pgdata", data],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write(
                _CONFIGURATION.format(folder=self.folder, port=self.port, host=host)
            )
        with (data / "pg_hba.conf").open("a") as allowed:
            allowed.write("\nhost all all samenet scram-sha-256\n")
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # Without pg_ctl, whose server would outlive a pytest that is killed.
                [
                    *(*self._as_owner, "--pdeathsig", "QUIT"),
                    *(self._programs / "postgres", "-D", self.folder / "data"),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        wait_until(self._answers, 20, "PostgreSQL's answer", every_s=0.02)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it as an operator does who is in a hurry: all connections break."""
        self._process.send_signal(number)
        self._process.wait(20)

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://ledger@/{database}?host={self.folder}&port={self.port}"

    def empty(self, name: str = "empty") -> str:
        """The URL of a database without a table; the one of that name before loses its own."""
        if name in self._made:
            self.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public", name)
        else:  # a thousand files, which is slow where many write
            self.run(f"CREATE DATABASE {name}")
            self._made.add(name)
        return self.url(name)

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run SQL as the owner of the cluster; the rows, if it gives any."""
        where = f"host={self.folder} port={self.port} user=ledger dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []
