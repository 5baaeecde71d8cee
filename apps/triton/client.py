"""Ask a Triton server about images, over gRPC or HTTP: pip install 'tritonclient[grpc,http]'

    python client.py pets photo.jpg ...
    python client.py pets photo.jpg --http --url localhost:8000

A line of JSON for each image; the exit code is 1 if one has no answer."""
import argparse, json, sys
from importlib import import_module
from pathlib import Path

import numpy as np
from tritonclient.utils import InferenceServerException


def connect(http=False, url=None):
    "(module, client) for gRPC or HTTP: both have the same classes."
    triton = import_module('tritonclient.http' if http else 'tritonclient.grpc')
    return triton, triton.InferenceServerClient(url or ('localhost:8000' if http else 'localhost:8001'))


def output_of(client, model):
    "Name of what a model answers."
    about = client.get_model_metadata(model)   # of HTTP a dict, of gRPC a message
    return about['outputs'][0]['name'] if isinstance(about, dict) else about.outputs[0].name


def ask(triton, client, model, files, name, top=0):
    "The answers to encoded images (bytes): an array [N, ...], or with `top` the best N classes as b'0.98:3:cat'."
    data = np.array(files, dtype=object)[:, None]
    tensor = triton.InferInput('file', data.shape, 'BYTES')
    tensor.set_data_from_numpy(data)
    wanted = triton.InferRequestedOutput(name, class_count=top)
    return client.infer(model, [tensor], outputs=[wanted]).as_numpy(name)


def best(row):
    "Labels with their numbers, from b'0.98:3:cat'."
    parts = (o.decode().split(':', 2) for o in row)
    return [dict(label=o[2], index=int(o[1]), prob=float(o[0])) for o in parts]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model')
    p.add_argument('images', nargs='+')
    p.add_argument('--url', help='host:port')
    p.add_argument('--http', action='store_true', help='HTTP instead of gRPC')
    p.add_argument('--top', type=int, default=0, help='how many classes, for a model that has labels; 0: all numbers')
    a = p.parse_args()
    failed = 0
    try:
        triton, client = connect(a.http, a.url)
        name = output_of(client, a.model)
    except InferenceServerException as e: sys.exit(f'{a.model}: {e.message()}')
    for path in a.images:
        try:
            row = ask(triton, client, a.model, [Path(path).read_bytes()], name, a.top)[0]
            said = dict(top=best(row)) if a.top else {name: row.tolist()}
        except (InferenceServerException, OSError) as e:
            said = dict(error=e.message() if isinstance(e, InferenceServerException) else str(e))
            failed = 1
        print(json.dumps(dict(path=path, **said), ensure_ascii=False), flush=True)
    sys.exit(failed)


if __name__ == '__main__': main()
