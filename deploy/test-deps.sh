#!/bin/sh
# Installs the real clients that the tests drive, if they are missing: as root with apt. Otherwise it lists what is
# missing and exits 1. With the argument filezilla also that one, and a display for it: make matrix alone needs it. With uml
# what make uml alone needs: a kernel to boot, and what makes file systems with quotas and exports them there. One client,
# basic-ftp, comes from npm into a cache folder outside the repository.
set -eu
missing=""
need() { # command, Debian package
	PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}
need_python() { # module, Debian package; any of the Pythons that the tests try will do
	for python in /usr/bin/python3 python3; do
		"$python" -c "import $1" >/dev/null 2>&1 && return 0
	done
	missing="$missing $2"
}
need_perl() { # module, Debian package
	perl "-M$1" -e 1 >/dev/null 2>&1 || missing="$missing $2"
}
need sftp openssh-client
need ssh-keygen openssh-client
need sshd openssh-server
need lftp lftp
need psftp putty-tools
need sshfs sshfs
need fusermount3 fuse3
need curl curl
need aws awscli
need_python boto3 python3-boto3
need gpg gnupg
need gcc gcc
need git git
need pg_ctlcluster postgresql
# The FTP clients of the matrix, and what the tests of NAT and the benchmark need.
need php php-cli
need perl perl
need_perl IO::Socket::SSL libio-socket-ssl-perl
need ncftpput ncftp
need tnftp tnftp
need rclone rclone
need node nodejs
need vsftpd vsftpd
need ip iproute2
need nft nftables
need haproxy haproxy
need strace strace
if [ "${1:-}" = filezilla ]; then
	need filezilla filezilla
	need Xvfb xvfb
	need xdotool xdotool
fi
if [ "${1:-}" = uml ]; then
	need linux.uml user-mode-linux
	need mkfs.ext4 e2fsprogs
	need setquota quota
	need rpc.nfsd nfs-kernel-server
	need mount.nfs nfs-common
	need rpcbind rpcbind
	need modprobe kmod
	need poweroff systemd-sysv
fi
# Some packages of node bring npm and exclude Debian's, so it is asked for only where node is without it.
node_client() {
	version=6.2.6
	client="${XDG_CACHE_HOME:-$HOME/.cache}/transferd-test/basic-ftp-$version"
	[ -f "$client/node_modules/basic-ftp/package.json" ] && return 0
	if ! command -v npm >/dev/null 2>&1; then
		[ "$(id -u)" = 0 ] || { echo "The tests need npm, for the FTP client basic-ftp $version." >&2; return 1; }
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null
	fi
	echo "installing basic-ftp $version for the tests"
	mkdir -p "$client"
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$client" "basic-ftp@$version" >/dev/null
}
if [ -z "$missing" ]; then
	node_client
	exit
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing what the tests need:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing libc6-dev >/dev/null
	node_client
	exit
fi
echo "The tests need these Debian packages, which are missing:$missing" >&2
echo "Install them (apt-get install$missing) and run make test again." >&2
exit 1
