"A processed notebook as Markdown: what readme.py and docs.py give to pandoc."
import base64, hashlib, re

def directives(src):
    "The `#| key: value` lines of a cell as a dict, and the source without them."
    found = re.findall(r'(?m)^\s*#\|[ \t]*([\w-]+):?[ \t]*(.*)$', src)
    return dict(found), re.sub(r'(?m)^[ \t]*#\|.*\n?', '', src).strip('\n')

def fence(text, lang=''):
    "A fenced block that its own text cannot close."
    ticks = '`' * max(3, 1 + max((len(o) for o in re.findall(r'`+', text)), default=0))
    return f'{ticks}{lang}\n{text}\n{ticks}'

def picture(kind, data, folder, link):
    "Write a picture of the outputs as a file; the Markdown that shows it."
    ext = {'image/png': 'png', 'image/jpeg': 'jpg', 'image/svg+xml': 'svg'}[kind]
    raw = data.encode() if ext == 'svg' else base64.b64decode(data)
    folder.mkdir(parents=True, exist_ok=True)
    name = f'{hashlib.sha256(raw).hexdigest()[:16]}.{ext}'
    (folder/name).write_bytes(raw)
    return f'![]({link}/{name})'

def output(o, folder, link):
    "One stored output as Markdown."
    if o.get('name') == 'stderr': return ''
    if o['output_type'] == 'stream': return fence(''.join(o['text']).rstrip('\n'), '{.output}') if o['text'] else ''
    data = {k: ''.join(v) for k, v in o.get('data', {}).items()}
    for k in ('image/svg+xml', 'image/png', 'image/jpeg'):
        if k in data: return picture(k, data[k], folder, link)
    if 'text/markdown' in data: return data['text/markdown']
    if 'text/html' in data: return f'```{{=html}}\n{data["text/html"]}\n```'
    return fence(data.get('text/plain', ''), '{.output}')

def markdown(nb, folder, link):
    "Markdown of a processed notebook (a dict); its pictures go into `folder`, linked as `link`."
    out = []
    for c in nb['cells']:
        src = ''.join(c['source'])
        if c['cell_type'] == 'markdown': out.append(src)
        if c['cell_type'] != 'code': continue
        d, code = directives(src)
        off = lambda k: d.get(k, '').strip() == 'false'
        if off('include') or 'hide' in d: continue
        if code.strip() and not off('echo') and 'hide_input' not in d: out.append(fence(code, 'python'))
        if not off('output') and 'hide_output' not in d: out += [output(o, folder, link) for o in c['outputs']]
    return '\n\n'.join(o.strip('\n') for o in out if o.strip()) + '\n'
