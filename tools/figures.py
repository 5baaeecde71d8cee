"""Sizes of the notebooks and of the code, to look at; nothing here is a limit.

    make report                              per notebook, and all together
    make report ARGS=--table                 also: nbs/reference/figures.json, which the docs show
    make report ARGS="--table --since REV"   the same, with the figures of another commit beside them"""
import argparse, ast, io, json, re, subprocess, tarfile, tempfile
from pathlib import Path
from statistics import median

from env import ROOT
from rules import LIB, cells, is_export, notebooks

TABLE = ROOT/'nbs'/'reference'/'figures.json'

def look(path):
    "What there is to measure in one notebook: exported code, widest lines, words of its Markdown cells."
    code, prose, sources = ([s for _, s, _ in cells(path, kind)] for kind in ('code', 'markdown', None))
    exports = [(s, is_export(after)) for s, after in zip(sources, [*sources[1:], '']) if is_export(s)
               and not all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(s).body)]
    return dict(exports=[s for s, _ in exports], followed=sum(o for _, o in exports),
                words=[len(re.findall(r'\w+', s)) for s in prose],
                widths=[max(map(len, s.splitlines()), default=0) for s in code])

def lines(folder):
    return sum(len(p.read_text(encoding='utf-8').splitlines()) for p in folder.rglob('*.py') if p.name != '_modidx.py')

def figures(root):
    seen = [look(p) for p in notebooks(root)]
    def every(k): return [o for s in seen for o in s[k]]
    exported = '\n'.join(every('exports'))
    private = re.findall(r'(?m)^def (_\w+)', exported)
    once = [o for o in private if len(re.findall(rf'\b{o}\b', exported)) == 2]
    modules = [p for p in (root/LIB).rglob('*.py') if p.stem[:2] != '__' and p.stem != '_modidx']
    return {'modules': len(modules), 'folders of modules': len({p.parent for p in modules} - {root/LIB}),
            'export cells': len(every('exports')),
            'export cells followed by another, %': round(100*sum(s['followed'] for s in seen)/len(every('exports'))),
            'private functions': len(private), 'private functions used once': len(once),
            'widest line of a code cell, median': round(median(every('widths'))),
            'words of a Markdown cell, median': round(median(every('words'))), 'lines of the package': lines(root/LIB),
            'lines of tools': lines(root/'tools'), 'lines of tests': lines(root/'tests')}

def at(rev):
    cmd = ['git', 'archive', rev, 'nbs', LIB, 'tools', 'tests']
    tar = subprocess.run(cmd, cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as tmp:
        with tarfile.open(fileobj=io.BytesIO(tar.stdout)) as f: f.extractall(tmp, filter='data')
        return figures(Path(tmp))

def report(root):
    print(f'{"":38}exports  followed by one  words (median)  widest line (median, most)')
    for p in notebooks(root):
        o = look(p)
        n, followed = len(o['exports']), f'{o["followed"]/len(o["exports"]):.0%}' if o['exports'] else ''
        print(f'{p.relative_to(root/"nbs").as_posix():38}{n:7}{followed:>17}{median(o["words"] or [0]):16g}'
              f'{median(o["widths"] or [0]):21g}{max(o["widths"], default=0):6}')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--table', action='store_true', help='write nbs/reference/figures.json')
    p.add_argument('--since', metavar='REV', help='the commit to compare with; by default the one in the table')
    a = p.parse_args()
    report(ROOT)
    now, old = figures(ROOT), json.loads(TABLE.read_text(encoding='utf-8')) if TABLE.exists() else {}
    before = at(a.since) if a.since else old.get('before', {})
    print()
    for k, v in now.items(): print(f'{k:38}{before.get(k, ""):>8}{v:>8}')
    if a.table:
        TABLE.write_text(json.dumps(dict(since=a.since or old.get('since'), before=before, now=now), indent=1) + '\n',
                         encoding='utf-8', newline='\n')

if __name__ == '__main__': main()
