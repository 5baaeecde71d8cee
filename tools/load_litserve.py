"The server of load_servers.py that runs on LitServe, which starts processes and so needs its class in a module."
import litserve as ls
import numpy as np
from load_servers import a_session, an_image, named

class API(ls.LitAPI):
    "The net of a bundle."
    def __init__(self, folder, threads, **options):
        super().__init__(**options)
        self.folder, self.threads = folder, threads
    def setup(self, device): self.session, self.vocab = a_session(self.folder, self.threads)
    def decode_request(self, request): return an_image(request['file'].file.read())
    def batch(self, inputs): return np.stack(inputs)
    def predict(self, x): return self.session.run(['probs'], {'image': x})[0]
    def unbatch(self, output): return list(output)
    def encode_response(self, output): return named(output, self.vocab)

def serve(folder, port, threads, workers):
    "Answer on `port` with `workers` processes."
    api = API(folder, threads, max_batch_size=8, batch_timeout=.005)
    server = ls.LitServer(api, accelerator='cpu', workers_per_device=workers)
    server.run(host='127.0.0.1', port=port, generate_client_file=False, log_level='warning')
