#!/usr/bin/env bash
# Tests the CPU kernels for aarch64 on x86-64 Linux: bash ci/aarch64.sh
#
# A short list of tests runs under QEMU's emulation of two processors: one with the dot product instruction, which the
# neon_dotprod kernels use, and one without it, where an instruction that was not detected would end the process.
#
# Needs apt with arm64 packages (Debian; no root, and nothing is installed) and about 400 MB in .aarch64, which keeps
# the emulator, Python, its packages and compiled kernels. Delete that folder to have newer versions. .ci/run leaves
# this script out, as it takes minutes and few machines have such an apt; the workflow test.yml runs it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

folder="$root/.aarch64"
emulator="$folder/qemu-aarch64"
system="$folder/system"     # arm64 libraries and Python, as they lie below /
packages="$folder/packages" # Python packages for aarch64
apt="$folder/apt"           # apt's state and downloads, apart from this machine's own

# Besides the kernels, operators whose bits a fused multiply-add or another conversion would change.
tests="test_instruction_sets or test_every_zero_point_term_counts or test_ties_go_where or test_the_product_is_rounded"
tests+=" or test_an_int32_bias_is_added or test_scales_are_multiplied or quantize_linear-int8-float16-half_even"
tests+=" or cpu-quantize_linear-int8-float32"
tests+=" or (neon_dotprod and not emulated and (test_real_gemm or (test_block_gemm and int4)))" # layers

stop() {
    echo "ci/aarch64.sh cannot run here: $1" >&2
    exit 1
}

check_machine() {
    [ "$(uname -sm)" = "Linux x86_64" ] || stop "it is for Linux on x86-64, this is $(uname -sm)"
    local tool
    for tool in apt-get apt-cache dpkg-deb; do
        command -v "$tool" >/dev/null || stop "$tool is missing"
    done
}

# Calls apt as if for a machine with the two architectures and nothing installed.
call_apt() {
    local command="$1"
    shift
    "$command" -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64,amd64 -o APT::Sandbox::User="$(id -un)" \
        -o Debug::NoLocking=1 -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Log="$apt" "$@"
}

# Unpacks packages, with all they depend on, into a folder.
unpack() {
    local target="$1" package
    shift
    rm -rf "$apt/archives" "$target"
    mkdir -p "$apt/archives/partial" "$target"
    call_apt apt-get install --yes --no-install-recommends --download-only "$@" >/dev/null ||
        stop "apt could not download $*"
    for package in "$apt"/archives/*.deb; do
        dpkg-deb --extract "$package" "$target"
    done
    [ -e "$target/lib" ] || ln -s usr/lib "$target/lib" # as on a system that keeps all of /lib there
}

install_system() {
    echo "downloading the emulator and Python for aarch64 into $folder"
    mkdir -p "$apt/lists/partial"
    : >"$apt/status"
    call_apt apt-get update || stop "apt could not update its lists for arm64"
    call_apt apt-cache show python3:arm64 >/dev/null 2>&1 || stop "apt's sources have no packages for arm64"
    unpack "$folder/all" qemu-user-static:amd64
    cp --dereference "$folder/all/usr/bin/qemu-aarch64-static" "$emulator"
    rm -rf "$folder/all"
    unpack "$system" python3 libstdc++6 libgomp1
    rm -rf "$apt"
}

install_packages() {
    local version
    version="$(basename "$(readlink -f "$system/usr/bin/python3")")"
    find_python
    environment_fits || make_environment
    "$python" -m pip --version >/dev/null 2>&1 || stop "$python has no pip"
    echo "downloading packages for $version on aarch64"
    rm -rf "$packages"
    "$python" -m pip install --quiet --target "$packages" --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 --implementation cp \
        --python-version "${version#python}" --only-binary=:all: numba numpy ml-dtypes hypothesis pytest ||
        stop "pip could not download the packages"
}

# Downloads what is not there yet; a change of this script counts as a change of all of it.
install() {
    local stamp="$folder/stamp" key
    key="$(sha256sum "${BASH_SOURCE[0]}" | cut -d ' ' -f 1)"
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$key" ]; then
        rm -f "$stamp"
        install_system
        install_packages
        echo "$key" >"$stamp"
    fi
}

# Calls the Python for aarch64 on a processor: its name for QEMU, its features for Numba, arguments of Python.
emulate() {
    local processor="$1" features="$2"
    shift 2
    env QEMU_CPU="$processor" QEMU_LD_PREFIX="$system" PYTHONHOME="$system/usr" PYTHONPATH="$packages:$root" \
        PYTHONDONTWRITEBYTECODE=1 NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES="$features" \
        GPUQ_CACHE_DIR="$folder/kernels" "$emulator" "$system/usr/bin/python3" "$@"
}

# Runs the tests on a processor that must have just these instruction sets.
run_tests() {
    local processor="$1" features="$2" expected="$3" found
    found="$(emulate "$processor" "$features" -c 'from gpuq.cpu.isa import available; print(*available())')"
    [ "$found" = "$expected" ] || stop "$processor should have $expected, gpuq finds $found"
    echo "$processor: $found"
    emulate "$processor" "$features" -m pytest -q -p no:cacheprovider \
        tests/cpu/test_instruction_sets.py tests/cpu/test_real_gemm.py tests/cpu/test_block_gemm.py \
        tests/test_promises.py tests/test_quantize.py -k "$tests"
}

check_machine
install
cd "$root"
run_tests max "+neon,+fp-armv8,+dotprod,+i8mm" "neon_dotprod portable"
run_tests cortex-a53 "+neon,+fp-armv8" "portable"
