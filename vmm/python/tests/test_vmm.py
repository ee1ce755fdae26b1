"""Tests of the package as it is installed: they need a VMM_HOME with Alpine in it, and run the sandboxes on VMM_ENGINE.

python -m unittest discover vmm/python/tests
"""

import asyncio
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import vmm
from vmm import CancelToken, Sandbox

ENGINE = os.environ.get("VMM_ENGINE")


def sandbox(**options):
    """A small one."""
    return Sandbox("alpine", memory="256M", engine=ENGINE, **options)


def soon(thread):
    """Waits for a thread that has nothing more to wait for."""
    thread.join(60)
    assert not thread.is_alive(), "a call does not return"


class InASandbox(unittest.TestCase):
    """What is done in a sandbox that runs."""

    @classmethod
    def setUpClass(cls):
        cls.steps = []
        cls.box = sandbox(
            env={"GREETING": "hello"}, on_progress=lambda step, done, total: cls.steps.append(step)
        )

    @classmethod
    def tearDownClass(cls):
        cls.box.close()

    def test_a_command_is_run_to_its_end(self):
        result = self.box.exec("echo out; echo err >&2; exit 7")
        self.assertEqual((result.stdout, result.stderr, result.status), (b"out\n", b"err\n", 7))
        self.assertFalse(result.ok or result.timed_out or result.truncated)
        self.assertEqual(self.box.exec(["echo", "$GREETING; *"]).text, "$GREETING; *\n")

    def test_a_command_has_what_it_is_given(self):
        result = self.box.exec(
            'echo "$GREETING $NAME"; pwd; id -u; cat',
            env={"NAME": "wörld"},
            workdir="/tmp",
            user="nobody",
            stdin=b"a\0b",
        )
        self.assertEqual(result.stdout, "hello wörld\n/tmp\n65534\na\0b".encode())

    def test_a_command_whose_time_is_up_is_a_result(self):
        began = time.monotonic()
        result = self.box.exec("echo begun; sleep 1000", timeout=0.5)
        self.assertEqual((result.timed_out, result.status, result.stdout), (True, 124, b"begun\n"))
        self.assertLess(time.monotonic() - began, 60)

    def test_a_command_that_a_signal_kills_says_which(self):
        result = self.box.exec("kill -TERM $$")
        self.assertEqual((result.signal, result.status), (15, 143))

    def test_no_more_output_is_kept_than_was_asked_for(self):
        result = self.box.exec("yes | head -c 1000000; echo end >&2", output_limit=1000)
        self.assertEqual((len(result.stdout), result.truncated, result.stderr), (1000, True, b"end\n"))
        self.assertEqual(result.status, 0)
        with self.assertRaises(vmm.InvalidRequest):
            self.box.exec("true", output_limit=0)

    def test_a_failure_is_raised_where_that_is_asked_for(self):
        self.assertTrue(self.box.exec("true", check=True).ok)
        with self.assertRaises(vmm.CommandFailed) as raised:
            self.box.exec("echo why >&2; false", check=True)
        self.assertEqual(raised.exception.result.error_text, "why\n")
        self.assertEqual(raised.exception.code, "command_failed")

    def test_what_is_not_there_is_told_by_its_code(self):
        for call, code in [
            (lambda: self.box.exec(["no-such-program"]), "command_not_found"),
            (lambda: self.box.exec("true", user="nobody-at-all"), "no_such_user"),
            (lambda: self.box.exec("true", workdir="/no/folder"), "working_directory"),
            (lambda: self.box.exec([]), "invalid"),
            (lambda: self.box.exec(["a\0b"]), "invalid"),
            (lambda: self.box.exec("true", env={"": "x"}), "invalid"),
            (lambda: self.box.read_file("/no/file"), "no_such_file"),
            (lambda: self.box.read_file("/bin"), "unfit_file"),
            (lambda: self.box.copy_in("/no/such/file", "/tmp"), "host_file"),
            (lambda: self.box.attach_process(999999), "no_such_process"),
        ]:
            with self.subTest(code), self.assertRaises(vmm.VmmError) as raised:
                call()
            self.assertEqual(raised.exception.code, code, raised.exception)

    def test_output_is_read_while_a_command_runs(self):
        with self.box.stream("echo one; read line; echo $line >&2; read end || exit 5", piped=True) as process:
            self.assertEqual(process.next(), vmm.Output("stdout", b"one\n"))
            process.write("two\n")
            self.assertEqual(process.next(), vmm.Output("stderr", b"two\n"))
            with self.assertRaises(vmm.TimedOut):
                process.next(timeout=0.1)
            process.close_input()
            self.assertEqual(list(process), [])
            self.assertEqual(process.result.status, 5)
            self.assertIsNone(process.next())
            with self.assertRaises(vmm.VmmError) as raised:
                process.write(b"more")
            self.assertEqual(raised.exception.code, "input_closed")

    def test_a_command_is_signalled_while_another_thread_reads_it(self):
        with self.box.stream("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.1; done") as process:
            pieces = []

            def read():
                pieces.extend(piece.data for piece in process)

            reader = threading.Thread(target=read)
            self.assertEqual(process.next().data, b"ready\n")
            reader.start()
            process.signal(10)
            soon(reader)
            # The shell may tell of its `sleep`, which the signal has reached too.
            self.assertEqual((pieces[-1], process.result.status), (b"caught\n", 3))

    def test_a_command_has_a_terminal(self):
        with self.box.stream("stty size; test -t 1 && echo yes", terminal=(24, 80)) as process:
            self.assertEqual(b"".join(piece.data for piece in process), b"24 80\r\nyes\r\n")

    def test_a_command_that_is_let_go_of_ends(self):
        process = self.box.stream("echo $$; sleep 1000")
        pid = process.next().text.strip()
        process.close()
        gone = f"for i in $(seq 100); do kill -0 {pid} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
        self.assertTrue(self.box.exec(gone).ok)
        with self.assertRaises(vmm.VmmError) as raised:
            process.next()
        self.assertEqual(raised.exception.code, "closed")

    def test_a_command_goes_on_by_itself_and_is_found_again(self):
        process = self.box.exec_detached("echo kept; exec sleep 1000")
        self.assertIn(process, [entry["process"] for entry in self.box.processes()])
        with self.box.attach_process(process) as attached:
            self.assertEqual(attached.next().data, b"kept\n")
            attached.signal(9)
            self.assertEqual(attached.wait().signal, 9)

    def test_files_go_in_and_come_out(self):
        contents = bytes(range(256)) * 5000
        self.box.write_file("/tmp/ä file", contents)
        self.assertEqual(self.box.read_file("/tmp/ä file"), contents)
        self.assertEqual(self.box.exec(["sh", "-c", 'wc -c < "/tmp/ä file"']).text.strip(), str(len(contents)))
        with self.assertRaises(vmm.VmmError):
            self.box.read_file("/tmp/ä file", limit=10)
        self.box.write_file("/tmp/text", "wörld")
        self.assertEqual(self.box.read_file(b"/tmp/text").decode(), "wörld")

    def test_trees_go_in_and_come_out(self):
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder, "tree")
            tree.joinpath("deep").mkdir(parents=True)
            tree.joinpath("deep/file").write_text("hello")
            tree.joinpath("link").symlink_to("deep/file")
            copied = self.box.copy_in(tree, "/tmp/copied")
            self.assertEqual(copied.entries, 4)
            self.assertEqual(self.box.exec("cat /tmp/copied/link; readlink /tmp/copied/link").text, "hellodeep/file\n")
            self.box.copy_out("/tmp/copied", Path(folder, "back"))
            self.assertEqual(Path(folder, "back/link").read_text(), "hello")
            with self.assertRaises(vmm.VmmError) as raised:
                self.box.copy_out("/tmp/copied", Path(folder, "limited"), max_entries=2)
            self.assertEqual((raised.exception.code, Path(folder, "limited").exists()), ("copy_limit", False))
            token = CancelToken()
            token.cancel()
            with self.assertRaises(vmm.Cancelled):
                self.box.copy_in(tree, "/tmp/never", cancel=token)
            self.assertFalse(self.box.exec("ls /tmp/never").ok)

    def test_it_says_how_it_is(self):
        self.assertGreater(self.box.health()["memory"]["total"], 100 << 20)
        info = self.box.info()
        self.assertEqual((info["state"], info["memory"], info["id"]), ("running", 256 << 20, self.box.id))
        self.assertIn(self.box.id, [info["id"] for info in vmm.list_sandboxes()])
        self.assertEqual(self.steps[-1], "ready")

    def test_several_threads_use_it_at_once(self):
        results = {}

        def run(number):
            results[number] = self.box.exec(f"echo {number}; cat", stdin=str(number) * 10000).text

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            soon(thread)
        self.assertEqual(results, {number: f"{number}\n" + str(number) * 10000 for number in range(8)})

    def test_async_code_runs_several_commands_at_once(self):
        async def both():
            calls = [asyncio.to_thread(self.box.exec, f"echo {word}") for word in ("one", "two")]
            return [result.text for result in await asyncio.gather(*calls)]

        self.assertEqual(asyncio.run(both()), ["one\n", "two\n"])

    def test_another_thread_cancels_a_command(self):
        token = CancelToken()
        failures = []

        def run():
            try:
                self.box.exec("echo $$ > /tmp/pid; exec yes", cancel=token, output_limit=10)
            except vmm.VmmError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.assertTrue(self.box.exec("until test -s /tmp/pid; do sleep 0.1; done", timeout=60).ok)
        token.cancel()
        soon(thread)
        self.assertIsInstance(failures[0], vmm.Cancelled)
        gone = "for i in $(seq 100); do kill -0 $(cat /tmp/pid) 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
        self.assertTrue(self.box.exec(gone).ok)

    def test_ctrl_c_ends_what_waits(self):
        for wait in (
            lambda: self.box.exec("sleep 1000"),
            lambda: self.box.stream("sleep 1000").next(),
            lambda: self.box.wait(),
        ):
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with self.assertRaises(KeyboardInterrupt):
                wait()
            timer.join()
        self.assertTrue(self.box.exec("true").ok)

    def test_a_process_that_is_forked_off_does_not_end_it(self):
        child = os.fork()
        if child == 0:
            # The end that a child usually has: everything is let go of.
            try:
                self.box.close()
                del type(self).box
            finally:
                os._exit(0)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertTrue(self.box.exec("true").ok)

    def test_a_handle_that_is_attached_does_not_own_it(self):
        with Sandbox.attach(self.box.id) as attached:
            self.assertEqual(attached.exec("echo $GREETING").text, "hello\n")
            attached.wait_until_ready()
        self.assertTrue(self.box.exec("true").ok)


class Lives(unittest.TestCase):
    """How sandboxes begin and end."""

    def test_one_with_a_name_keeps_its_disk(self):
        with sandbox(name="kept") as box:
            self.assertEqual((box.name, repr(box)), ("kept", "<Sandbox kept>"))
            box.exec("echo stays > /srv/file; sync", check=True)
            with self.assertRaises(vmm.VmmError) as raised:
                sandbox(name="kept")
            self.assertEqual(raised.exception.code, "name_in_use")
            box.stop()
            with self.assertRaises(vmm.NotRunning):
                box.exec("true")
        with self.assertRaises(vmm.NotRunning):
            Sandbox.attach("kept").exec("true")
        with Sandbox.start("kept") as box:
            self.assertEqual(box.read_file("/srv/file"), b"stays\n")
            with self.assertRaises(vmm.VmmError) as raised:
                box.remove()
            self.assertEqual(raised.exception.code, "running")
            box.remove(force=True)
        with self.assertRaises(vmm.NoSuchSandbox) as raised:
            Sandbox.attach("kept")
        self.assertIsNotNone(raised.exception.hint)

    def test_one_that_is_killed_is_told_as_ended_and_one_that_is_closed_is_gone(self):
        box = sandbox()
        box_id = box.id
        box.kill()
        self.assertEqual(box.wait()["reason"], "killed")
        with self.assertRaises(vmm.NotRunning):
            box.exec("true")
        box.close()
        box.close()
        with self.assertRaises(vmm.NoSuchSandbox):
            Sandbox.attach(box_id)
        with self.assertRaises(vmm.VmmError) as raised:
            box.exec("true")
        self.assertEqual((raised.exception.code, repr(box)), ("closed", "<Sandbox, closed>"))

    def test_one_stands_still_and_goes_on(self):
        with sandbox(stop_timeout=5) as box:
            box.pause()
            with self.assertRaises(vmm.VmmError) as raised:
                box.exec("true")
            self.assertEqual(raised.exception.code, "paused")
            box.resume()
            self.assertTrue(box.exec("true").ok)
            box.stop()
            self.assertEqual(box.wait()["reason"], "stopped")

    def test_a_start_is_cancelled(self):
        token = CancelToken()
        token.cancel()
        with self.assertRaises(vmm.Cancelled):
            sandbox(cancel=token)
        self.assertEqual(vmm.list_sandboxes(), [])

    def test_a_program_that_just_ends_leaves_nothing(self):
        for last in ("os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError"):
            program = (
                "import os, signal, sys, vmm\n"
                f"box = vmm.Sandbox('alpine', memory='256M', engine={ENGINE!r})\n"
                f"print(box.id, flush=True)\n{last}\n"
            )
            ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
            box_id = ended.stdout.strip()
            self.assertTrue(box_id, ended.stderr)
            try:
                Sandbox.attach(box_id).wait()
            except (vmm.NoSuchSandbox, vmm.NotRunning):
                pass
            self.assertEqual(vmm.list_sandboxes(), [], last)


class Refused(unittest.TestCase):
    """What cannot be."""

    def test_what_cannot_be_is_told_before_anything_starts(self):
        for options, code in [
            ({"image": "no such image!"}, "invalid_image"),
            ({"image": None}, "invalid"),
            ({"image": "alpine", "memory": "1X"}, "invalid"),
            ({"image": "alpine", "memory": 1}, "invalid"),
            ({"image": "alpine", "memory": -1}, "invalid"),
            ({"image": "alpine", "cpus": 0}, "invalid"),
            ({"image": "alpine", "cpus": 1000}, "invalid"),
            ({"image": "alpine", "engine": "other"}, "invalid"),
            ({"image": "alpine", "name": "a/b"}, "invalid_name"),
            ({"image": "alpine", "name": "a\0b"}, "invalid"),
            ({"image": "alpine", "base_file": "/disk.qcow2"}, "invalid"),
            ({"image": "alpine", "base_format": "raw"}, "invalid"),
            ({"image": "alpine", "health_retries": 3}, "invalid"),
            ({"image": "alpine", "health_check": "true", "health_retries": 0}, "invalid"),
            ({"image": "alpine", "restart": "sometimes"}, "invalid"),
            ({"image": "alpine", "executable": "/no/such/vmm"}, "invalid"),
            ({"image": "alpine", "disks": ["/no/such/disk.raw"]}, "system"),
        ]:
            with self.subTest(options), self.assertRaises(vmm.VmmError) as raised:
                Sandbox(**options)
            self.assertEqual(raised.exception.code, code, raised.exception)
        self.assertEqual(vmm.list_sandboxes(), [])

    def test_an_error_goes_to_another_process(self):
        with self.assertRaises(vmm.VmmError) as raised:
            Sandbox.attach("nobody")
        again = pickle.loads(pickle.dumps(raised.exception))
        self.assertEqual((type(again), again.code, str(again)), (vmm.NoSuchSandbox, "no_such_vm", str(raised.exception)))

    def test_every_call_of_the_header_is_known(self):
        from vmm import _native

        header = Path(__file__).resolve().parents[2] / "capi/include/vmm.h"
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        declared = set(re.findall(r"\b(vmm_\w+)\(", text))
        self.assertGreater(len(declared), 40)
        self.assertEqual(declared, set(_native._CALLS) | set(_native._OTHERS))

    def test_the_executable_comes_along(self):
        ran = subprocess.run([sys.executable, "-m", "vmm", "version"], capture_output=True, text=True, timeout=60)
        self.assertIn(vmm.__version__, ran.stdout, ran.stderr)


if __name__ == "__main__":
    unittest.main()
