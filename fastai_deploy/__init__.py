"Take a fastai Learner out of fastai: one safe bundle, the same predictions everywhere, with the proof inside."
__version__ = "0.0.1"
# Written by hand; nbdev keeps the version line. A name is looked up when it is first used, so that the import costs
# nothing and the run side never meets torch.

import os as _os, sys as _sys

# onnxruntime 1.29 and newer sends usage data to its makers unless this is set before it is loaded. Where it was loaded
# before us, its events are switched off from here on; what it sent at its start cannot be taken back.
if 'ORT_DISABLE_TELEMETRY' not in _os.environ:
    _os.environ['ORT_DISABLE_TELEMETRY'] = '1'
    if 'onnxruntime' in _sys.modules: _sys.modules['onnxruntime'].disable_telemetry_events()

_homes = {
    'learner.export': 'export', 'learner.verify': 'verify', 'serving.demo': 'demo',
    'serving.server': 'serve', 'serving.client': 'Client AsyncClient', 'serving.pack': 'pack',
    'serving.triton': 'to_triton', 'serving.scale': 'to_ray',
    'run.loading': 'load', 'run.model': 'Model', 'run.custom_ops': 'register_op',
    'run.answers': 'Prediction MultiLabel Values Points Mask Picture', 'run.spec': 'Spec',
    'run.bundle': 'Bundle open_bundle', 'run.parity': 'Parity', 'run.goldens': 'Golden',
    'run.basics': 'FastaiDeployError BundleError ImageError UnsupportedError ParityError MissingExtraError'}
_home = {name: home for home, names in _homes.items() for name in names.split()}
__all__ = sorted(_home)

def __getattr__(name):
    from importlib import import_module
    if name == 'scale': return import_module(f'{__name__}.serving.scale')
    if name not in _home: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    try: globals()[name] = value = getattr(import_module(f'{__name__}.{_home[name]}'), name)
    except ModuleNotFoundError as e:
        if (e.name or '').startswith(__name__): raise
        from .run.basics import MissingExtraError
        extra = '[export]' if name == 'export' else ''
        raise MissingExtraError(f"fastai_deploy.{name} needs {e.name}: pip install 'fastai_deploy{extra}'") from e
    return value

def __dir__(): return sorted({*globals(), *_home, 'scale'})
