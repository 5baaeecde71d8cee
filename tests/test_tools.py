"The project's own tools: environments, the sum of a run, README and pages from notebooks."
import json, re, sys

import check
import docs
import env as tools_env
import pytest
import readme
from conftest import ROOT, said

def test_make_targets():
    assert {'zoo', 'matrix'} <= {*re.findall(r'(?m)^(\w+):', (ROOT/'Makefile').read_text(encoding='utf-8'))}

def test_requirement_lists():
    "The run side gets three packages and no more; the newest fastai comes without nbdev."
    run, dev, latest = (tools_env.requirements(o) for o in ('run', 'dev', 'latest'))
    assert [re.match(r'\w+', o)[0] for o in run] == ['numpy', 'Pillow', 'onnxruntime']
    assert {'nbdev==2.4.14', 'fastcore==1.14.5', 'fastai==2.8.7', 'plum-dispatch<2.10', *run} <= set(dev)
    assert 'fastai==2.8.12' in latest and not any(o.startswith('nbdev') for o in latest)

def test_environment_is_reused_until_asked_for_something_else(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(tools_env, 'DIRS', {'dev': tmp_path/'v'})
    monkeypatch.setattr(tools_env, 'ROOT', tmp_path)
    monkeypatch.setattr(tools_env, 'requirements', lambda name: reqs)
    monkeypatch.setattr(tools_env, 'settings', lambda: {'console_scripts': 'x'})
    monkeypatch.setattr(tools_env, 'pip_install', lambda name, *a: done.append(a))
    def create(name):
        tools_env.python_of(name).parent.mkdir(parents=True, exist_ok=True)
        tools_env.python_of(name).touch()
    monkeypatch.setattr(tools_env, 'create', create)
    reqs = ['a']
    tools_env.ensure('dev'); tools_env.ensure('dev')
    assert done == [('a',), ('--no-deps', '-e', '.')]
    reqs = ['b']
    tools_env.ensure('dev')
    assert done[2:] == [('b',), ('--no-deps', '-e', '.')]

def test_setup_reads_settings():
    "setup.py gives pip what settings.ini says, without pkg_resources."
    out = said(sys.executable, 'setup.py', '--name', '--version', '--license', cwd=ROOT)
    assert out.split()[-3:] == ['fastai_deploy', tools_env.settings()['version'], 'Apache-2.0']
    assert 'import pkg_resources' not in (ROOT/'setup.py').read_text(encoding='utf-8')

@pytest.mark.parametrize('body,want', [
    ('<testsuite tests="5" failures="1" errors="1" skipped="1"/>', (2, 2, 1)),
    ('<testsuite tests="2" failures="0" errors="0" skipped="0"/>', (2, 0, 0)), (None, (0, 1, 0))])
def test_counts(tmp_path, body, want):
    "A run that wrote nothing has failed."
    if body: (tmp_path/'x.xml').write_text(f'<testsuites>{body}</testsuites>', encoding='utf-8')
    assert check.counts(tmp_path/'x.xml') == want

def cell(source, *outputs, kind='code'): return dict(cell_type=kind, source=source, outputs=list(outputs))

def test_readme_of_a_notebook(tmp_path):
    printed = dict(output_type='stream', name='stdout', text=['a ``` b\n'])
    table = dict(output_type='execute_result', data={'text/markdown': ['|a|'], 'text/plain': 'no'})
    cells = [cell('# T [x](run/00_x.ipynb)', kind='markdown'), cell('#| echo: false\n1', table), cell('f()', printed),
             cell('#| hide\nx', printed)]
    (tmp_path/'nbs').mkdir()
    (tmp_path/'nbs'/'index.ipynb').write_text(json.dumps(dict(cells=cells)), encoding='utf-8')
    assert readme.render(tmp_path) == (f'{readme.NOTE}\n\n# T [x](nbs/run/00_x.ipynb)\n\n|a|\n\n```python\nf()\n```\n\n'
                                       '````text\na ``` b\n````\n')

@pytest.mark.parametrize('f,given,want', [
    (docs.page_of, 'index.ipynb', 'index'), (docs.page_of, 'run/16_model.ipynb', 'run/model'),
    (docs.page_of, '10_my_data.ipynb', 'my_data'), (docs.slug, 'A way, *here*', 'a-way-here'),
    (docs.slug, '`Model.predict`', 'model.predict'), (docs.slug, '1. [One](x.html)', 'one')])
def test_names_on_the_site(f, given, want):
    "Pages are named as nbdev does it, anchors as pandoc does."
    assert f(given) == want

def test_links_to_symbols_lead_somewhere():
    "To the nearest heading; out of a signature they go, and the signature goes where the source follows."
    md = ('---\n\n[source](https://x/a.py#L1){target="_blank"}\n\n### f\n\n'
          '```python\ndef f(\n    x, # [`A`](https://s/a.html#a)\n):\n```\n\n*Not [`B.go`](https://s/a.html#b.go), [`A.go`](https://s/a.html#a.go)*')
    shown = cell('show_doc(f)', dict(data={'text/markdown': md}))
    docs.tidy(shown, set(), {'a': {'a'}}, 'https://s/')
    got = shown['outputs'][0]['data']['text/markdown']
    assert '# `A`' in got and '[`B.go`](https://s/a.html)' in got and '[`A.go`](https://s/a.html#a)' in got
    docs.tidy(shown, {'f'}, {}, 'https://s/')
    assert '```' not in shown['outputs'][0]['data']['text/markdown']

def test_dead_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<h1 id="t">A</h1><a href="b.html#x"></a><a href="https://x"></a>', encoding='utf-8')
    (tmp_path/'b.html').write_text('<p id="x"></p><a href="#x"></a><a href="a.html#t"></a>', encoding='utf-8')
    assert docs.dead_links(tmp_path) == []
    (tmp_path/'c.html').write_text('<a href="a.html#y"></a><a href="#z"></a><img src="no.png">', encoding='utf-8')
    assert docs.dead_links(tmp_path) == ['c.html: #z', 'c.html: a.html#y', 'c.html: no.png']
