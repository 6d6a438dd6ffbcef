import sys

import trio

import ftvm


async def main(path: str) -> None:
    config = ftvm.load(path)
    async with trio.open_nursery() as nursery, ftvm.open_edge(config) as edge:
        async with ftvm.open_primary(config, node="alpha") as vm:
            await nursery.start(ftvm.serve_shadow, config, "beta")
            await vm.wait_protected()
            await edge.send(b"SET city Potsdam\r\n")
            print(await edge.receive())
        await edge.send(b"GET city\r\n")  # alpha is gone: beta answers, on the same connection
        print(await edge.receive())
        nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1])
