"""A checkout with job configurations, and shared storage for their inputs and results, on one machine and on hosts."""

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

from tests.cluster.hosts import TIMEOUT_S, Hosts
from tests.conftest import PROJECT, make_passages, write_jsonl
from tests.training.material import write_examples

LOG = logging.getLogger(__name__)
TRAIN = {"batch_size": 8, "mini_batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "seed": 1,
         "allow_duplicates": True, "num_workers": 2, "save_every": 2}  # fmt: skip


class JobFiles:
    """A checkout with configurations, and the files that its jobs read and write, as on shared storage."""

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
        """Change settings of a verb."""
        self.configs[verb] |= settings

    def write(self, verb: str, where: Path) -> Path:
        """Write a verb's configuration, with its results in a folder; return the file."""
        setting = "index" if verb == "append" else "out"
        settings = {**self.configs[verb], setting: str(where / self.configs[verb][setting])}
        file = self.checkout / f"{verb}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    def run_locally(self, *verbs: str) -> Path:
        """Run verbs on this machine, without the hosts; return the folder of their results."""
        where = self.shared / "alone"
        names = {"train": ["train"], "index": ["index", "build"], "append": ["index", "append"]}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        for verb in verbs:
            command = [sys.executable, "-m", "raycol", *names[verb], "--config", str(self.write(verb, where))]
            subprocess.run(command, env=clean | {"RAY_AUTH_MODE": "disabled"}, cwd=PROJECT, check=True,
                           timeout=TIMEOUT_S)  # fmt: skip
        return where

    def submit(self, hosts: Hosts, verb: str, where: Path) -> str:
        """Run a verb as a job on the hosts; return its output."""
        file = self.write(verb, where)
        return hosts.raycol(1, "submit", verb, file, "--address", hosts.dashboard, cwd=self.checkout)

    def submit_through_failure(self, hosts: Hosts, verb: str, progress: str, failure: Callable[[], object]) -> Path:
        """Run a job, make the hosts fail once it has written files, and submit it again if the failure ends it.

        Logs the time until the next file after the failure.

        Args:
            hosts: of the cluster.
            verb: of the job.
            progress: glob of files among the results, which the job writes one after the other.
            failure: makes hosts fail and recover.
        """
        made = self.shared / "made"
        words = [sys.executable, "-m", "raycol", "submit", verb, self.write(verb, made), "--address", hosts.dashboard]
        log = self.shared / "job.log"

        def submit() -> subprocess.Popen:
            return hosts.popen(1, *words, cwd=self.checkout, log=log)

        job = submit()
        deadline = time.monotonic() + TIMEOUT_S
        while not list(made.glob(progress)):
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with ThreadPoolExecutor(1) as background:
            began = time.monotonic()
            failing = background.submit(failure)
            time.sleep(1)
            before = set(made.glob(progress))
            # A restarted head reports an earlier job as running until it has checked it.
            for _ in range(4):
                while job.poll() is None:
                    assert time.monotonic() < began + 2 * TIMEOUT_S, log.read_text()
                    if before and set(made.glob(progress)) - before:
                        LOG.info("%s: next file %.1f s after the failure", verb, time.monotonic() - began)
                        before = set()
                    time.sleep(0.05)
                failing.result()
                if not job.returncode:
                    LOG.info("%s: done %.1f s after the failure", verb, time.monotonic() - began)
                    return made
                job = submit()
        raise AssertionError(log.read_text())
