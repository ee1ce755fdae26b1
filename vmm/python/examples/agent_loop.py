"""An agent that works in a sandbox, over MCP: its tools are those of `vmm mcp`, its client is the package `mcp`.

    pip install mcp
    python agent_loop.py

Which call comes next is for a language model to say. Here a function of a few lines plays it, so that the example runs
anywhere; put a model's API in its place: it gets the tools and what was said so far, and answers with a call of a tool, or
with text when it is finished.
"""

import asyncio
import json
import os
from dataclasses import dataclass, field

from mcp import Client, StdioServerParameters, stdio_client


@dataclass
class Call:
    """A tool that the model wants to use."""

    tool: str
    arguments: dict = field(default_factory=dict)


def model(tools, said):
    """Plays a model that is to compute the primes below 30: it makes a mistake, sees it, and mends it."""
    assert {"create", "exec", "write_file", "stop"} <= {tool.name for tool in tools}
    results = [result for _, result in said]
    program = 'i=2; while [ $i -lt 30 ]; do factor $i | awk "NF == 2 { print \\$2 }"; i=$((i + 1)); done\n'
    match len(said):
        case 0:
            return Call("create", {"memory": "256M"})
        case 1:
            mistaken = program.replace("done", "dome")
            return Call("write_file", {**box(results), "path": "/srv/primes.sh", "contents": mistaken})
        case 2 | 4:
            return Call("exec", {**box(results), "argv": ["sh", "/srv/primes.sh"], "timeout_seconds": 20})
        case 3:
            assert results[-1]["status"] != 0, results[-1]
            return Call("write_file", {**box(results), "path": "/srv/primes.sh", "contents": program})
        case 5:
            return Call("stop", box(results))
    return " ".join(results[4]["stdout"].split())


def box(results):
    """The sandbox that was made first."""
    return {"sandbox": results[0]["sandbox"]}


async def main():
    """Asks the model, does what it says, tells it what came of it."""
    server = StdioServerParameters(
        command=os.environ.get("VMM_BIN", "vmm"),
        args=["mcp", "--max-sandboxes", "1", "--max-memory", "512M", "--max-timeout", "1m"],
        # The client passes on little of its environment by itself.
        env={name: value for name, value in os.environ.items() if name.startswith(("VMM_", "XDG_"))},
    )
    async with Client(stdio_client(server)) as client:
        tools = (await client.list_tools()).tools
        said = []
        while True:
            step = model(tools, said)
            if not isinstance(step, Call):
                print(step)
                return
            result = await client.call_tool(step.tool, step.arguments)
            if result.is_error:
                raise SystemExit(f"{step.tool}: {result.content[0].text}")
            print(f"{step.tool}: {json.dumps(result.structured_content)}")
            said.append((step, result.structured_content))


asyncio.run(main())
