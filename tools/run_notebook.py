"""Run one notebook's cells as nbdev_test does, and say which cells ran: nbdev_test exits 0 when nothing did.

    python tools/run_notebook.py nbs/00_spec.ipynb [--flags slow] [--ran FILE]"""
import argparse, json, os, sys
from pathlib import Path

import nbdev.test as nbdev_test
from execnb.shell import CaptureShell
from nbdev.config import get_config

class CountingShell(CaptureShell):
    "A shell that keeps the ids of the cells that it ran."
    ran = []
    def cell(self, cell, **kw):
        if cell.cell_type == 'code': self.ran.append(cell.id)
        return super().cell(cell, **kw)

def run(path, flags=()):
    "(all right, ids of the cells that ran) of one notebook."
    nbdev_test.CaptureShell, CountingShell.ran = CountingShell, []
    cfg = get_config()
    ok, _ = nbdev_test.test_nb(Path(path).resolve(), skip_flags=cfg.tst_flags.split(), force_flags=flags,
                               basepath=cfg.config_path)
    return ok, CountingShell.ran

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('path')
    p.add_argument('--flags', default='', help='flags of cells to run that are skipped otherwise, for instance `slow`')
    p.add_argument('--ran', help='write the ids of the cells that ran to this JSON file')
    a = p.parse_args()
    os.environ.setdefault('MPLBACKEND', 'agg')
    ok, ran = run(a.path, a.flags.split())
    if a.ran: Path(a.ran).write_text(json.dumps(ran), encoding='utf-8')
    print(f'{Path(a.path).name}: {len(ran)} cells ran, ' + ('all right' if ok else f'failed in cell {ran[-1:]}'))
    sys.exit(not ok)

if __name__ == '__main__': main()
