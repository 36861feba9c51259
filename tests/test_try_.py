import time, papermill, nbformat
def test_b(tmp_path):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import ares.pipeline.stages, matplotlib.pyplot as plt\nfrom pathlib import Path\nplt.plot([1, 2]); print(Path.cwd())")], metadata=dict(kernelspec=dict(name="python3", display_name="x", language="python")))
    nbformat.write(nb, tmp_path/"in.ipynb")
    for i in range(2):
        t = time.time()
        done = papermill.execute_notebook(str(tmp_path/"in.ipynb"), str(tmp_path/"out.ipynb"), progress_bar=False, cwd=str(tmp_path), extra_arguments=["--log-level=ERROR"])
        print(time.time()-t, [list(o.get("data", o)) for o in done.cells[0].outputs], done.cells[0].outputs[0])
