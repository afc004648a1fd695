"""A checkout with configurations of jobs, and what they make on shared storage: by one machine, and by hosts."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.cluster.hosts import PATIENCE_S, Hosts
from tests.conftest import PROJECT, make_passages, write_jsonl
from tests.training.material import write_examples

LOG = logging.getLogger(__name__)
TRAIN = {"batch_size": 8, "mini_batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "seed": 1,
         "allow_duplicates": True, "num_workers": 2, "save_every": 2}  # fmt: skip


class Place:
    """A checkout with configurations, and what its jobs read and write, as on shared storage."""

    def __init__(self, folder: Path, colbert: Path) -> None:
        self.checkout, self.shared = folder / "checkout", folder / "shared"
        shutil.copytree(PROJECT / "jobs", self.checkout / "jobs")
        self.shared.mkdir()
        passages = make_passages(120)
        corpus, more = (
            str(write_jsonl(self.shared / f"{name}.jsonl", part))
            for name, part in (("corpus", passages[:80]), ("more", passages[80:]))
        )
        data = str(write_examples(self.shared / "pairs.jsonl", 64))
        cut = {"docs_per_partition": 8, "num_workers": 2}
        self.configs = {
            "train": {"model": str(colbert), "data": data, "out": "model", **TRAIN},
            "index": {"corpus": corpus, "model": str(colbert), "out": "index", **cut},
            "append": {"index": "index", "corpus": more, **cut},
        }

    def change(self, verb: str, **settings: object) -> None:
        """Other settings of a verb."""
        self.configs[verb] |= settings

    def write(self, verb: str, where: Path) -> Path:
        """A verb's configuration, with its results in a folder."""
        setting = "index" if verb == "append" else "out"
        settings = {**self.configs[verb], setting: str(where / self.configs[verb][setting])}
        file = self.checkout / f"{verb}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    def alone(self, *verbs: str) -> Path:
        """What this machine makes by itself."""
        where = self.shared / "alone"
        names = {"train": ["train"], "index": ["index", "build"], "append": ["index", "append"]}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        for verb in verbs:
            command = [sys.executable, "-m", "raycol", *names[verb], "--config", str(self.write(verb, where))]
            subprocess.run(command, env=clean | {"RAY_AUTH_MODE": "disabled"}, cwd=PROJECT, check=True,
                           timeout=PATIENCE_S)  # fmt: skip
        return where

    def submit(self, hosts: Hosts, verb: str, where: Path) -> str:
        """The same as a job of the hosts."""
        file = self.write(verb, where)
        return hosts.raycol(1, "submit", verb, file, "--address", hosts.dashboard, cwd=self.checkout)

    def disturb(self, hosts: Hosts, verb: str, progress: str, disturb: Callable[[], object]) -> Path:
        """A job that something befalls once it has made files; submitted again where it ends of that.

        Logs how long it took until it made more.

        Args:
            hosts: of the cluster.
            verb: the job's.
            progress: a pattern of files, among its results, that come one after the other.
            disturb: what befalls the hosts.
        """
        made = self.shared / "made"
        words = [sys.executable, "-m", "raycol", "submit", verb, self.write(verb, made), "--address", hosts.dashboard]
        log = self.shared / "job.log"

        def submit() -> subprocess.Popen:
            return hosts.popen(1, *words, cwd=self.checkout, log=log)

        job = submit()
        deadline = time.monotonic() + PATIENCE_S
        while not list(made.glob(progress)):
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with ThreadPoolExecutor(1) as beside:
            began = time.monotonic()
            befalling = beside.submit(disturb)
            time.sleep(1)
            before = set(made.glob(progress))
            # A head that has restarted takes a job of before for running until it has looked for it.
            for _ in range(4):
                while job.poll() is None:
                    assert time.monotonic() < began + 2 * PATIENCE_S, log.read_text()
                    if before and set(made.glob(progress)) - before:
                        LOG.info("%s: more was made %.1f s after", verb, time.monotonic() - began)
                        before = set()
                    time.sleep(0.05)
                befalling.result()
                if not job.returncode:
                    LOG.info("%s: done %.1f s after", verb, time.monotonic() - began)
                    return made
                job = submit()
        raise AssertionError(log.read_text())
