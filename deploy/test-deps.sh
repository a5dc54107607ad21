#!/bin/sh
# Installs the real clients that the tests drive, if they are missing: as root with apt. Otherwise it lists what is
# missing and exits 1.
set -eu
missing=""
need() { # command, Debian package
	PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null 2>&1 || case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}
need_python() { # module, Debian package; any of the Pythons that the tests try will do
	for python in /usr/bin/python3 python3; do
		"$python" -c "import $1" >/dev/null 2>&1 && return 0
	done
	missing="$missing $2"
}
need sftp openssh-client
need ssh-keygen openssh-client
need sshd openssh-server
need lftp lftp
need psftp putty-tools
need curl curl
need aws awscli
need_python boto3 python3-boto3
need gcc gcc
need git git
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing what the tests need:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing libc6-dev >/dev/null
	exit 0
fi
echo "The tests need these Debian packages, which are missing:$missing" >&2
echo "Install them (apt-get install$missing) and run make test again." >&2
exit 1
