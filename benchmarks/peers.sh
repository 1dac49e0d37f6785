#!/usr/bin/env bash
# Install the programs the benchmarks compare with into .peers/: cryodrgn 4.3.1 and RELION 3.1.3.
# Nothing outside .peers/ is changed. Only `make bench` needs them; no test does.
set -euo pipefail
cd "$(dirname "$0")/.."
peers="$PWD/.peers"
mkdir -p "$peers"

# cryodrgn in its own virtual environment. Its dependencies are named one by one instead of being resolved, because
# half of them (jupyterlab, notebook, ipywidgets, ...) serve its notebooks, which no benchmark runs.
install_cryodrgn() {
    python3 -m venv "$peers/cryodrgn"
    "$peers/cryodrgn/bin/pip" install --quiet --constraint constraints.txt \
        torch "numpy>=1.25" scipy "pandas>=2.2" scikit-learn healpy umap-learn igraph starfile pyyaml matplotlib seaborn \
        flask "plotly>=5,<7" nbformat
    "$peers/cryodrgn/bin/pip" install --quiet --no-deps cryodrgn==4.3.1
}

# RELION's Debian package with the libraries this machine lacks, unpacked rather than installed: no root is needed.
install_relion() {
    local packages="$peers/relion/packages" root="$peers/relion/root" program
    mkdir -p "$packages" "$root" "$peers/relion/bin"
    if [ "$(id -u)" = 0 ]; then
        apt-get update --quiet --quiet
    fi
    (
        cd "$packages"
        apt-get install --simulate --no-install-recommends relion | sed -n 's/^Inst \([^ ]*\) .*/\1/p' | xargs apt-get download --quiet
        for package in *.deb; do
            dpkg --extract "$package" "$root"
        done
    )
    for program in relion_reconstruct relion_project relion_image_handler; do
        cat > "$peers/relion/bin/$program" <<WRAPPER
#!/usr/bin/env bash
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu/openmpi/lib:$root/usr/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$root/usr/bin/$program" "\$@"
WRAPPER
        chmod +x "$peers/relion/bin/$program"
    done
}

if [ ! -e "$peers/cryodrgn/installed" ]; then
    install_cryodrgn
    touch "$peers/cryodrgn/installed"
fi
if [ ! -e "$peers/relion/installed" ]; then
    install_relion
    touch "$peers/relion/installed"
fi
"$peers/cryodrgn/bin/cryodrgn" --version
"$peers/relion/bin/relion_reconstruct" --version | head -1
