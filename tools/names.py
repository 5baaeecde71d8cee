"""Which of the names in backticks in our prose exist nowhere.

A name exists if it is in the package, in the tools or in the code of its notebook, or if it is a package or a builtin.
A name with a `_`, a capital or a digit inside may also come from the libraries that we write about; a plain word may
not, for they use every word. `Class.member` of a class of ours must be a member of it, and `fd.name` must be public."""
import ast, builtins, keyword, re, sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ['fastai', 'torch/nn/modules', 'torch/onnx/__init__.py', 'torch/__init__.py', 'torchvision/transforms',
             'torchvision/models', 'PIL', 'timm/models', 'onnx', 'onnxruntime/capi', 'nbdev', 'fastcore', 'gradio']
PROGRAMS = 'bash cmake curl docker find git java make mvn node npm pip quarto ruff unzip uv zip'.split()
FILES = ('c cpp csv dll gif h html ini ipynb java jpeg jpg js json jsonl lock md mjs onnx part pkl png ppm pth py '
         'safetensors so svg toml tsv txt webp yaml yml zip').split()

def spans(md):
    "What stands in backticks in a Markdown text, fenced blocks aside."
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', re.sub(r'(?ms)^\s*(```+).*?^\s*\1', '', md))

def dotted(span):
    "The parts of a span that is a name, a call or an attribute; none of anything else: files, flags, expressions."
    m = re.fullmatch(r'(\.)?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\(.*\))?', span)
    parts = m[2].split('.') if m else []
    no_name = not m or parts[1:] and parts[-1] in FILES or m[1] and not m[3] or re.fullmatch('[A-Z0-9]+', m[2])
    return [] if no_name else parts

def names(tree):
    "All names in some code: definitions, arguments, attributes, keywords, and strings that are a name."
    kinds = 'id', 'attr', 'name', 'arg', 'asname', 'module', 'value'
    found = [o for n in ast.walk(tree) for k in kinds if isinstance(o := getattr(n, k, None), str)]
    return {word for o in found if ' ' not in o.strip() for word in re.findall(r'\w+', o)}

def parsed(src):
    "A cell's or a file's code as a tree; without magics, and empty where it is no Python."
    try: return ast.parse(re.sub(r'(?m)^[ \t]*[%!].*$', '', src))
    except (SyntaxError, ValueError): return ast.Module([], [])

def sources(*folders):
    files = [p for o in folders for p in ([o] if o.is_file() else o.rglob('*.py*')) if p.suffix in ('.py', '.pyi')]
    return [p.read_text(encoding='utf-8', errors='replace') for p in files]

@cache
def library_names():
    "The names in the sources of the libraries that we write about, if they have a `_`, a digit or a capital inside."
    out = set()
    for o in LIBRARIES:
        lib, *rest = o.split('/')
        if not (spec := find_spec(lib)): continue
        for s in sources(Path(spec.origin).parent.joinpath(*rest)): out.update(re.findall(r'\b\w+?[_A-Z\d]\w*', s))
    return out

def is_word(name):
    "Whether a name is one of Python's, of a package or of a program."
    types = builtins, str, list, dict, set, Path
    return (name in PROGRAMS or keyword.iskeyword(name) or any(hasattr(o, name) for o in types)
            or name not in sys.stdlib_module_names and find_spec(name) is not None)

def foreign(trees):
    "What some code imports from elsewhere: the names that it has for it."
    found = [(n, a) for t in trees for n in ast.walk(t) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names]
    return {a.asname or a.name.split('.')[0] for n, a in found
            if not getattr(n, 'level', 0) and not (getattr(n, 'module', None) or a.name).startswith('fastai_deploy')}

def members(trees):
    "{class of ours: the names in it, its members' among them}; a class with a base that is not ours is left out."
    found, bases = {}, {}
    for n in (n for t in trees for n in ast.walk(t)):
        if isinstance(n, ast.ClassDef):
            found.setdefault(n.name, set()).update(names(n))
            bases[n.name] = [ast.unparse(o) for o in n.bases] + (['made'] if n.decorator_list else [])
        elif isinstance(n, ast.FunctionDef) and n.args.args and n.args.args[0].annotation:    # @patch
            for o in re.findall(r'\w+', ast.unparse(n.args.args[0].annotation)): found.setdefault(o, set()).add(n.name)
        elif isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name):
            found.setdefault(n.value.id, set()).add(n.attr)
    def lineage(c): return [c, *(up for o in bases.get(c, ()) for up in lineage(o))]
    return {c: set().union(*map(found.get, lineage(c))) for c in bases if bases.keys() >= set(lineage(c))}

def exists(parts, ours, theirs, classes, public):
    "Whether a name, given by its parts, is one: `ours` in our code, or of what is imported as one of `theirs`."
    first, *rest = parts
    if rest and first == 'fd': return rest[0] in public
    if rest and first in classes: return rest[0] in classes[first] or hasattr(object, rest[0])
    if rest and (first in theirs or first in sys.stdlib_module_names or is_word(first)): return True
    return all(o in ours or is_word(o) or o in library_names() for o in parts)

def stale(root, notebooks):
    "(notebook, cell, name) of each name that exists nowhere; `notebooks`: path -> [(cell id, is prose, source)]."
    trees, tools = ([parsed(s) for s in sources(root/o)] for o in ('fastai_deploy', 'tools'))
    public = set(re.findall(r'\w+', (root/'fastai_deploy'/'__init__.py').read_text(encoding='utf-8')))
    ours, theirs, classes = set().union(*map(names, trees + tools)), foreign(trees), members(trees)
    for path, cells in notebooks.items():
        code = [parsed(s) for _, prose, s in cells if not prose]
        mine, other = ours.union(*map(names, code)), theirs | foreign(code)
        for i, prose, s in cells:
            for o in spans(s) if prose else ():
                if (parts := dotted(o)) and not exists(parts, mine, other, classes, public): yield path, i, o
