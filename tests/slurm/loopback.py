"""A Slurm of one node on 127.0.0.1, from Debian's packages unpacked into a folder.

Nothing is installed: no munge daemon, no cgroups, no accounting. `python tests/slurm/loopback.py
FOLDER` starts one, prints the variables a shell needs, and stops it at the end of its input.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "libhwloc15",
    "liblua5.1-0",
    "libmunge2",
)
_PATIENCE_SECONDS = 30


class Unavailable(Exception):
    """This machine cannot run it: no Debian tools, no package archive, no ports."""


def unpack(folder: Path) -> Path:
    """Download the packages and unpack them below `folder`; raises Unavailable."""
    root = folder / "root"
    if (root / "usr/sbin/slurmctld-wlm").exists():
        return root
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool}: Debian's packages are needed")
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    got = subprocess.run(["apt-get", "download", *PACKAGES], cwd=debs, capture_output=True)
    if got.returncode:
        raise Unavailable(f"apt-get download: {_last_line(got.stderr)}")
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
    return root


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["no message"])[-1]


class Slurm:
    """A running controller and node. `environment` reaches it, for this process and its children.

    Use it as a context manager: jobs and daemons end with it.
    """

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder.resolve()
        self.root = unpack(self.folder)
        self.cpus = cpus
        self._daemons: list[subprocess.Popen[bytes]] = []
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        self.plugins = libraries / "slurm-wlm"
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "LD_LIBRARY_PATH": f"{libraries}:{self.plugins}",
            "PATH": f"{self.root / 'usr/bin'}:{os.environ['PATH']}",
        }

    def __enter__(self) -> Slurm:
        self._write_configuration()
        sbin = self.root / "usr/sbin"
        try:
            self._daemons.append(self._start(sbin / "slurmctld-wlm", "-D"))
            step_daemon = str(sbin / "slurmstepd-wlm")
            self._daemons.append(self._start(sbin / "slurmd-wlm", "-D", "-d", step_daemon))
            self._await_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True)
        return (done.stdout + done.stderr).decode(errors="replace").strip()

    def stop(self) -> None:
        """Cancel all jobs, end the daemons; a step that could not report its end would stay."""
        if self._daemons:
            self.run("scancel", "--user", getpass.getuser())
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while self.run("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _start(self, program: Path, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{program.name}.out").open("wb")
        with log:
            return subprocess.Popen(
                [str(program), *arguments],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await_idle(self) -> None:
        told = "no answer"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for daemon in self._daemons:
                if daemon.poll() is not None:
                    raise Unavailable(f"a daemon ended: {self._tail(daemon)}")
            told = self.run("sinfo", "--noheader", "--format=%T")
            if told == "idle":
                return
            time.sleep(0.2)  # daemons of another program, which announce nothing
        raise Unavailable(f"the node is not idle after {_PATIENCE_SECONDS} s: {told}")

    def _tail(self, daemon: subprocess.Popen[bytes]) -> str:
        assert isinstance(daemon.args, list)
        path = self.folder / f"{Path(str(daemon.args[0])).name}.out"
        return _last_line(path.read_bytes())

    def _write_configuration(self) -> None:
        state, spool = self.folder / "state", self.folder / "spool"
        for path in (state, spool):
            path.mkdir(exist_ok=True)
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        lines = [
            "ClusterName=loopback",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={_free_port()}",
            f"SlurmdPort={_free_port()}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            # Without authentication anyone who reaches the ports is root here: loopback only.
            "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
            "AuthType=auth/none",
            "CredType=cred/none",
            "ProctrackType=proctrack/pgid",
            "TaskPlugin=task/none",
            "MpiDefault=none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0",
            "ReturnToService=2",
            "MailProg=/bin/true",
            f"PluginDir={self.plugins}",
            f"StateSaveLocation={state}",
            f"SlurmdSpoolDir={spool}",
            f"SlurmctldPidFile={self.folder / 'slurmctld.pid'}",
            f"SlurmdPidFile={self.folder / 'slurmd.pid'}",
            f"NodeName={host} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory=2000 State=UNKNOWN",
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    with Slurm(Path(sys.argv[1])) as slurm:
        for name, value in slurm.environment.items():
            sys.stdout.write(f"export {name}='{value}'\n")
        sys.stdout.flush()
        sys.stdin.read()
