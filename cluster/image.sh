# Makes a fresh Debian 12 machine ready to be made an image of, for nodes of scsched.
# Run it as root, stop the machine, make an image, and put the image's id into the configuration:
#
#   SCSCHED=./scsched-0.1.0-py3-none-any.whl sh bake.sh       as `scsched cloud image > bake.sh` named it
#   GPU=1 MIRROR=... SCSCHED=... sh bake.sh                   with NVIDIA's driver from that Debian mirror
#
# The wheel is made where the checkout is: .tools/bin/uv build --wheel, which writes it into dist/.
# Debian's RELION has no CUDA: for GPU pools build your own into a directory of PATH.
# Nothing secret is put into the image, and no account: a node makes its owner's at its start.
set -eu
umask 022
: "${SCSCHED:?name the wheel of scsched: SCSCHED=./scsched-0.1.0-py3-none-any.whl sh bake.sh}"
case $SCSCHED in
  *.whl) [ -f "$SCSCHED" ] || { echo "image: $SCSCHED: no such file; name the wheel" >&2; exit 1; } ;;
esac
[ "$(id -u)" = 0 ] || { echo "image: run it as root" >&2; exit 1; }
. /etc/os-release
[ "${ID:-}${VERSION_ID:-}" = debian12 ] || { echo "image: this is not Debian 12" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive

say() { echo "image: $*"; }

# Packages that upgrade themselves change a node in the middle of a refinement.
for unit in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service; do
  systemctl disable --now "$unit" 2>/dev/null || true
done

say "RELION, Open MPI and the NFS client"
apt-get update
apt-get install -y --no-install-recommends \
  relion openmpi-bin libopenmpi-dev nfs-common \
  python3 python3-venv python3-dev python3-tk gcc \
  curl iproute2 util-linux

if [ "${GPU:-0}" = 1 ]; then
  say "NVIDIA's driver"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
    "${MIRROR:?name the Debian mirror} bookworm contrib non-free non-free-firmware" \
    >/etc/apt/sources.list.d/scsched-nvidia.list
  apt-get update
  apt-get install -y --no-install-recommends "linux-headers-$(dpkg --print-architecture)" \
    nvidia-driver nvidia-smi
fi

say "scsched in $environment"
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/python" -m pip install --no-input "$SCSCHED"

say "Scipion in $scipion"
"$environment/bin/scsched" setup scipion "$scipion"

say "checks"
"$environment/bin/python" -I -c \
  "import scsched.cluster.node, scsched.cluster.ec2.place, distributed, mpi4py"
command -v relion_refine_mpi mpirun mount.nfs4 useradd shutdown >/dev/null
[ -x "$scipion_python" ] || { echo "image: there is no $scipion_python" >&2; exit 1; }

say "cleaning"
[ "$keep_sshd" = yes ] || systemctl disable ssh 2>/dev/null || true
apt-get clean
rm -rf /var/lib/apt/lists/* /root/.cache /tmp/scsched-*
rm -f /etc/ssh/ssh_host_*_key* /root/.ssh/authorized_keys /var/lib/dbus/machine-id
: >/etc/machine-id
if command -v cloud-init >/dev/null; then cloud-init clean --logs; fi
say "done; scipion.python is $scipion_python; stop the machine and make an image"
