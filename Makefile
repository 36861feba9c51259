# The commands a newcomer needs. Each does all its own set-up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
README := README.md
BIN := $(VENV)/bin
OMP_NUM_THREADS ?= 2
WORKERS ?= 3
export OMP_NUM_THREADS
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_PROGRESS_BARS := 1

.PHONY: help demo test lab slides pages docs preview readme figures bench clean-demo
help:                ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

demo: $(VENV)/.demo  ## run the whole loop on problems the project makes (six to ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/ares run params/demo.yaml  # a second thread gains little here, and crawls when the machine has other work

test: $(VENV)/.dev   ## check and run the notebooks, then the tests, in WORKERS processes (3: some tests wait for a server)
	@OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers $(WORKERS) --timing  # one thread each: more would wait for each other
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15

lab: $(VENV)/.dev    ## open JupyterLab on the tour; what it saves is cleaned by nbdev
	@cd nbs && $(abspath $(BIN))/jupyter lab --LabApp.default_url=/lab/tree/00_tour.ipynb --FileContentsManager.pre_save_hook=nbdev.clean.clean_jupyter

slides: $(VENV)/.dev ## the concept pages as slides, in runs/slides (a browser loads the slide show from the network)
	@$(BIN)/jupyter nbconvert --log-level ERROR --to slides nbs/learn/0[1-6]_*.ipynb --output-dir runs/slides --no-prompt \
		--TagRemovePreprocessor.remove_input_tags=hidden --SlidesExporter.reveal_scroll=True \
		--SlidesExporter.reveal_width=1366 --SlidesExporter.reveal_height=768
	@echo "The slides are in runs/slides: open runs/slides/01_feedback.slides.html in a browser."

pages: $(VENV)/.dev  # the notebooks as the site's pages, in _proc; changed ones only
	@PYTHONWARNINGS=ignore $(BIN)/python -c "from nbdev.serve import proc_nbs; proc_nbs()"
	@cp _quarto.yml _proc/ && rm -f _proc/images/*.md  # the table of the front page is no page of its own
	@find _proc -name '*.ipynb' -exec perl -pi -e 's/```mermaid/```{mermaid}/' {} +  # as Quarto writes diagrams

docs: $(VENV)/.dev   ## build the site (needs Quarto)
	@command -v quarto >/dev/null || { echo "make docs: Quarto is missing; install it from https://quarto.org and call make docs again."; exit 1; }
	@$(MAKE) --no-print-directory pages && quarto render _proc --output-dir ../_docs

preview: pages       ## build the site without Quarto, to look at it on this machine (two minutes; then seconds)
	@$(BIN)/smalldocs render _proc --quiet 2>_proc/_warnings.txt || { cat _proc/_warnings.txt; exit 1; }
	@! grep -v "output-file is not read\|code-tools is ignored" _proc/_warnings.txt  # a broken link is an error
	@echo "The site is in _proc/_docs: open _proc/_docs/index.html (formulas and diagrams need the network)."

readme: $(VENV)/.dev ## write README.md from nbs/index.ipynb
	@$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdout --TagRemovePreprocessor.remove_input_tags=hidden nbs/index.ipynb | sed -E 's#\]\((images|runs|experiments|explanations|learn|howto|core|data|students|teachers|training|evaluation|pipeline|reports|[0-9]{2}_)#](nbs/\1#g' | cat -s > $(README)

figures: $(VENV)/.dev ## make the front page's figure and table again, from the demo over five seeds (about three hours)
	@cd nbs/experiments && OMP_NUM_THREADS=1 $(abspath $(BIN))/papermill demo.ipynb demo.ipynb
	@$(BIN)/jupyter nbconvert --log-level ERROR --to notebook --inplace --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_all_outputs_tags=runs nbs/experiments/demo.ipynb  # progress bars
	@cd nbs && $(abspath $(BIN))/jupyter nbconvert --log-level ERROR --to notebook --inplace --execute index.ipynb
	@$(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

bench: $(VENV)/.demo ## measure the speed of each phase (about 5 minutes)
	@mkdir -p runs && $(BIN)/papermill nbs/experiments/speed.ipynb runs/speed.ipynb

clean-demo:          ## forget the demo's run
	rm -rf runs/demo

# --no-compile: Python compiles what it imports, a sixth of the files
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --no-compile --disable-pip-version-check -c constraints.txt $(1)
endef

$(VENV)/.demo: settings.ini setup.py constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	$(call install,-e .)
	@touch $@

$(VENV)/.dev: settings.ini setup.py constraints.txt
	@echo "Setting up $(VENV) with what the notebooks' tests need (once; a few minutes) ..."
	$(call install,-e ".[dev]")
	@touch $(VENV)/.demo $@
