"""The servers that tools/load.py compares. Each answers POST /predict with a JSON object.

    python tools/load_servers.py NAME FOLDER PORT     FOLDER: where load.py put bundle/ and learn.pkl"""
import io, os, sys
from pathlib import Path

def fastai(folder, port):
    "What one writes first: `learn.predict` in the handler."
    import uvicorn
    from fastai.vision.all import load_learner
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    learn = load_learner(folder/'learn.pkl')
    async def predict(request):
        label, index, probs = learn.predict(await request.body())
        return JSONResponse({'label': str(label), 'prob': float(probs[index])})
    with learn.no_bar(), learn.no_logging():
        uvicorn.run(Starlette(routes=[Route('/predict', predict, methods=['POST'])]), port=port, access_log=False)

def an_image(data, size=224):
    "What the bundle's item transforms do, by hand: centre crop to a square, resize; uint8 [3, size, size]."
    import numpy as np
    from PIL import Image
    img = Image.open(io.BytesIO(data)).convert('RGB')
    w, h = img.size
    side = min(w, h)
    left, top = (w - side)//2, (h - side)//2
    img = img.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(img).transpose(2, 0, 1)

def a_session(folder, threads):
    "The bundle's net in ONNX Runtime, and its classes."
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads   # 0: its own choice
    vocab = (folder/'bundle'/'vocab.txt').read_text(encoding='utf-8').splitlines()
    return ort.InferenceSession(folder/'bundle'/'model.onnx', options, providers=['CPUExecutionProvider']), vocab

def named(probs, vocab):
    "An answer."
    return {'label': vocab[probs.argmax()], 'prob': float(probs.max())}

def fastapi(folder, port, threads=0):
    "FastAPI and ONNX Runtime: decode and `session.run` in FastAPI's own threads, a call for each request."
    import uvicorn
    from fastapi import Depends, FastAPI, Request
    (session, vocab), app = a_session(folder, threads), FastAPI()
    async def body(request: Request): return await request.body()
    @app.post('/predict')
    def predict(data: bytes = Depends(body)):
        return named(session.run(['probs'], {'image': an_image(data)[None]})[0][0], vocab)
    uvicorn.run(app, port=port, access_log=False)

def litserve(folder, port, threads=0, workers=1):
    "LitServe and ONNX Runtime, with its batching. It takes a form, not a bare body."
    import litserve as ls
    import numpy as np
    class API(ls.LitAPI):
        def setup(self, device): self.session, self.vocab = a_session(folder, threads)
        def decode_request(self, request): return an_image(request['file'].file.read())
        def batch(self, inputs): return np.stack(inputs)
        def predict(self, x): return self.session.run(['probs'], {'image': x})[0]
        def unbatch(self, output): return list(output)
        def encode_response(self, output): return named(output, self.vocab)
    server = ls.LitServer(API(max_batch_size=8, batch_timeout=.005), accelerator='cpu', workers_per_device=workers)
    server.run(host='127.0.0.1', port=port, generate_client_file=False, log_level='warning')

def ours(folder, port, **options):
    "This package's server."
    from fastai_deploy.serve.server import serve
    serve(folder/'bundle', port=port, page=False, log_level='warning', **options)

SERVERS = {
    'ours': ours, 'fastai': fastai, 'fastapi': fastapi, 'litserve': litserve,
    'ours, all threads a call': lambda *a: ours(*a, threads=os.cpu_count()),
    'ours, no batches': lambda *a: ours(*a, max_batch=1),
    'fastapi, one thread a call': lambda *a: fastapi(*a, threads=1),
    'litserve, a worker a core': lambda *a: litserve(*a, threads=1, workers=os.cpu_count()),
}

if __name__ == '__main__':
    name, folder, port = sys.argv[1:]
    SERVERS[name](Path(folder).resolve(), int(port))
