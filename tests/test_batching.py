"The batcher from outside: a crowd of callers who come, give up and send rubbish."
import asyncio, io, random, time

import fastai_deploy as fd
import numpy as np
import pytest
from fastai_deploy.run.basics import ImageError
from fastai_deploy.run.model import Model
from fastai_deploy.serve.batching import Batcher, Busy, Late
from PIL import Image

pytest.importorskip('onnx')   # makes the toys
from fastai_deploy.run.spec import Input
from fastai_deploy.samples.toys import toy_bundle

def numbered(i, size):
    "A PNG whose colour says `i`."
    out = io.BytesIO()
    Image.new('RGB', size, (i % 256, i//256, 0)).save(out, 'png')
    return out.getvalue()

def number_of(answer): return round(answer.values[0]) + 256*round(answer.values[1])

@pytest.fixture(params=[None, 1], ids=['threads', 'thread'])
def model(tmp_path, request):
    "A toy for images of any size that says the mean of each colour; its net takes 5 ms, and 13 makes it fail."
    bundle = toy_bundle(tmp_path/'any', 'regression', 0, 255*np.eye(3), size='hw', item=[], input=Input(None))
    model = fd.load(bundle, threads=request.param, check=False)
    model.seen = []
    def run(batch):
        time.sleep(.005)
        ids = (batch[:, 0, 0, 0] + 256*batch[:, 1, 0, 0].astype(int)).tolist()
        if 13 in ids: raise RuntimeError('13')
        model.seen += ids
        return Model.run(model, batch)
    model.run = run
    return model

def test_crowd(model):
    "Each gets what belongs to it: its own number, or its own error; nothing is left behind."
    rng = random.Random(0)
    async def caller(b, i):
        await asyncio.sleep(rng.random()*.5)
        x = b'rubbish' if i % 10 == 7 else numbered(i, rng.choice([(9, 9), (9, 20), (20, 9)]))
        times = {}
        try: res = number_of(await b.predict(x, timeout=.001 if i % 10 == 3 else None, times=times))
        except Exception as e: return e
        assert times.keys() == {'queue', 'decode', 'net'} and min(times.values()) >= 0
        return res
    async def main():
        async with Batcher(model, max_queue=1000) as b:
            tasks = [asyncio.create_task(caller(b, i)) for i in range(1000)]
            await asyncio.sleep(.3)
            for t in (gone := tasks[5::10]): t.cancel()
            res = await asyncio.gather(*tasks, return_exceptions=True)
        assert (b.in_hand, b.decoding, b.calling, b.queues) == (0, 0, 0, {})
        return res, {id(t) for t in gone}, tasks
    res, gone, tasks = asyncio.run(main())
    for i, (r, t) in enumerate(zip(res, tasks)):
        if i % 10 == 7: assert isinstance(r, ImageError)
        elif i == 13: assert isinstance(r, (RuntimeError, Late))
        elif id(t) in gone: assert r == i or isinstance(r, asyncio.CancelledError)
        elif i % 10 == 3: assert r == i or isinstance(r, Late)
        else: assert r == i
    assert len(model.seen) == len(set(model.seen)), 'computed twice'
    assert sum(isinstance(r, asyncio.CancelledError) for r in res) > 10 < sum(isinstance(r, Late) for r in res)

def test_busy(model):
    "A full batcher says so at once, and takes the next when there is place again."
    async def main():
        async with Batcher(model, max_batch=2, max_queue=4) as b:
            begun = time.perf_counter()
            tasks = [asyncio.create_task(b.predict(numbered(i, (9, 9)))) for i in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(Busy, match='4 images are in hand'): await b.predict(b'is not even opened')
            assert time.perf_counter() - begun < .1
            assert [number_of(o) for o in await asyncio.gather(*tasks)] == [0, 1, 2, 3]
            assert number_of(await b.predict(numbered(5, (9, 9)))) == 5
        with pytest.raises(Busy, match='closed'): await b.predict(numbered(6, (9, 9)))
    asyncio.run(main())

def test_no_needless_wait(model):
    "Alone, an image does not wait for others; together, they go together."
    sizes, run = [], model.run
    def counted(batch):
        sizes.append(len(batch))
        return run(batch)
    model.run = counted
    async def main():
        async with Batcher(model, max_wait=5) as b:
            begun = time.perf_counter()
            for i in range(3): await b.predict(numbered(i, (9, 9)))
            assert time.perf_counter() - begun < 4 and sizes == [1, 1, 1]
            await asyncio.gather(*[b.predict(numbered(i, (9, 9))) for i in range(20, 28)])
    asyncio.run(main())
    assert sizes == [1, 1, 1, 8]

def test_tensors(model):
    "Tensors of many callers: those of one shape share calls, and each gets its rows."
    rng = np.random.default_rng(0)
    xs = [rng.integers(20, 99, (1 + i % 5, 3, 8 + i % 2, 8), dtype=np.uint8) for i in range(20)]
    async def main():
        async with Batcher(model, max_queue=100) as b: return await asyncio.gather(*map(b.run, xs))
    for x, out in zip(xs, asyncio.run(main())):
        np.testing.assert_allclose(out, x.mean((2, 3)), rtol=1e-4)
