"""A session with `vmm mcp` through the client library `mcp`, which checks every answer against the protocol's types and the
tools' own schemas."""

import asyncio
import base64
import os
import sys
import time

from mcp import Client, ClientSession, StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

SERVER = StdioServerParameters(
    command=os.environ["VMM_BIN"],
    args=["mcp", "--max-sandboxes", "2", "--max-memory", "256M", "--max-timeout", "60s", "--max-output", "4K"],
    env={name: value for name, value in os.environ.items() if name.startswith(("VMM_", "XDG_"))},
)


async def call(client, tool, **arguments):
    """A call that succeeds."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


async def refused(client, words, tool, **arguments):
    """A call that fails as a tool."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error and words in result.content[0].text, result


async def session():
    """Every tool, side by side, cancelled, refused."""
    async with Client(stdio_client(SERVER)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"create", "exec", "read_file", "write_file", "list", "stop"}, tools
        assert client.server_info.name == "vmm"

        one, two = await asyncio.gather(call(client, "create"), call(client, "create", memory="200M"))
        assert one["memory"] == "256M" and two["memory"] == "200M", (one, two)
        await refused(client, "all that there can be", "create")
        await refused(client, "at most 256M", "create", memory="1G")
        await refused(client, "not to be had", "create", image="/etc/passwd")
        listed = (await call(client, "list"))["sandboxes"]
        assert {entry["sandbox"] for entry in listed} == {one["sandbox"], two["sandbox"]}, listed

        box = {"sandbox": one["sandbox"]}
        ran = await call(client, "exec", **box, command="cat; echo err >&2; exit 3", stdin="in")
        assert ran == {"status": 3, "stdout": "in", "stderr": "err\n", "timed_out": False, "truncated": False}, ran
        ran = await call(client, "exec", **box, argv=["yes"], timeout_seconds=0.5)
        assert ran["timed_out"] and ran["truncated"] and len(ran["stdout"]) == 4096, ran
        ran = await call(client, "exec", **box, command='echo "$A $(pwd) $(id -u)"', env={"A": "é"}, workdir="/tmp", user="65534")
        assert ran["stdout"] == "é /tmp 65534\n", ran
        await refused(client, "command_not_found", "exec", **box, argv=["no-such-program"])
        await refused(client, "at most 60 seconds", "exec", **box, command="true", timeout_seconds=1e300)
        await refused(client, "no sandbox", "exec", sandbox="nobody", command="true")

        assert (await call(client, "write_file", **box, path="/tmp/a", contents="hé"))["bytes"] == 3
        assert (await call(client, "read_file", **box, path="/tmp/a"))["contents"] == "hé"
        raw = base64.b64encode(b"\0\xff").decode()
        await call(client, "write_file", **box, path="/tmp/b", contents_base64=raw)
        assert (await call(client, "read_file", **box, path="/tmp/b"))["contents_base64"] == raw
        await refused(client, "no_such_file", "read_file", **box, path="/no/file")
        await refused(client, "longer", "read_file", **box, path="/bin/busybox")

        # A long command holds nobody up, in the same sandbox or another, and ends when it is given up.
        long = asyncio.create_task(call(client, "exec", **box, command="echo $$ > /tmp/pid; exec sleep 1000"))
        began = time.monotonic()
        await call(client, "exec", **box, command="until test -s /tmp/pid; do sleep 0.1; done")
        await call(client, "exec", sandbox=two["sandbox"], command="true")
        assert not long.done() and time.monotonic() - began < 50
        long.cancel()
        try:
            await long
        except asyncio.CancelledError:
            pass
        gone = "for i in $(seq 100); do kill -0 $(cat /tmp/pid) 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
        assert (await call(client, "exec", **box, command=gone))["status"] == 0

        try:
            await client.call_tool("exec", {**box, "command": "true", "argv": ["true"]})
            raise AssertionError("both ways to name a command")
        except MCPError as error:
            assert error.code == -32602, error
        try:
            await client.call_tool("fly", {})
            raise AssertionError("there is no such tool")
        except MCPError as error:
            assert error.code == -32602, error

        await call(client, "stop", **box)
        await refused(client, "no sandbox", "stop", **box)
        await call(client, "create")


async def older():
    """The handshake of clients that know nothing newer."""
    async with stdio_client(SERVER) as (read, write), ClientSession(read, write) as client:
        greeting = await client.initialize()
        assert greeting.protocol_version == "2025-11-25" and greeting.instructions, greeting
        await client.send_ping()


asyncio.run(session())
asyncio.run(older())
print("ok", file=sys.stderr)
