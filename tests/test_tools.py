"The project's own tools: environments, the sum of a run, Markdown from a notebook."
import base64, json, re, subprocess, sys

import check
import docs
import env as tools_env
import pytest
from conftest import ROOT
from pages import directives, markdown

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
    r = subprocess.run([sys.executable, 'setup.py', '--name', '--version', '--license'], cwd=ROOT, capture_output=True,
                       text=True)
    assert r.stdout.split()[-3:] == ['fastai_deploy', tools_env.settings()['version'], 'Apache-2.0'], r.stderr
    assert 'import pkg_resources' not in (ROOT/'setup.py').read_text(encoding='utf-8')

@pytest.mark.parametrize('body,want', [
    ('<testsuite tests="5" failures="1" errors="1" skipped="1"/>', (2, 2, 1)),
    ('<testsuite tests="2" failures="0" errors="0" skipped="0"/>', (2, 0, 0))])
def test_counts(tmp_path, body, want):
    (tmp_path/'x.xml').write_text(f'<testsuites>{body}</testsuites>', encoding='utf-8')
    assert check.counts(tmp_path/'x.xml') == want

def test_a_run_that_wrote_nothing_has_failed(tmp_path): assert check.counts(tmp_path/'no.xml') == (0, 1, 0)

def cell(source, *outputs, kind='code'): return dict(cell_type=kind, source=source, outputs=list(outputs))

def test_markdown_of_a_notebook(tmp_path):
    png = dict(output_type='display_data', data={'image/png': base64.b64encode(b'abc').decode(), 'text/plain': 'no'})
    said = dict(output_type='stream', name='stdout', text=['a ``` b\n'])
    loud = dict(output_type='stream', name='stderr', text=['careful\n'])
    md = markdown(dict(cells=[cell('# T', kind='markdown'), cell('#| echo: false\n1', png), cell('f()', said, loud),
                              cell('#| hide\nx', said)]), tmp_path, 'img')
    pic, = tmp_path.glob('*.png')
    assert md == f'# T\n\n![](img/{pic.name})\n\n```python\nf()\n```\n\n````{{.output}}\na ``` b\n````\n'
    assert pic.read_bytes() == b'abc'

def test_directives(): assert directives('#| echo: false\n#| hide\nx') == ({'echo': 'false', 'hide': ''}, 'x')

def test_pages_are_named_as_nbdev_names_them():
    assert [docs.name(o) for o in ('index', '10_my_data')] == ['index.html', 'my_data.html']

def test_links_leave_signatures_only():
    md = '```python\ndef f(\n    x, # as [`g`](https://a.b/c.html#g)\n):\n```\n\n*See [`g`](https://a.b/c.html#g)*'
    nb = dict(cells=[dict(cell_type='code', outputs=[dict(data={'text/markdown': [md]})])])
    out = json.loads(docs.plain_signatures(json.dumps(nb)))['cells'][0]['outputs'][0]['data']['text/markdown']
    assert out == md.replace('[`g`](https://a.b/c.html#g)', '`g`', 1)

def test_titles():
    assert docs.title(dict(cells=[cell("---\ntitle: It's\n---\n", kind='raw')])) == "It's"
    assert docs.title(dict(cells=[cell('# Head\n', kind='markdown')])) == 'Head'
