# Python's ftplib. REUSE=1 adds what it lacks: data connections that resume the control connection's TLS session.
import ftplib, io, os, ssl

env = os.environ
data, out, tls = env["DATA"], env["OUT"], env["TLS"]


class Reusing(ftplib.FTP_TLS):
    def ntransfercmd(self, cmd, rest=None):
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if self._prot_p:
            conn = self.context.wrap_socket(conn, server_hostname=self.host, session=self.sock.session)
        return conn, size


if tls == "plain":
    ftp = ftplib.FTP(timeout=60)
else:
    context = ssl.create_default_context(cafile=env["CA"])
    context.minimum_version = context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[tls]
    ftp = (Reusing if env.get("REUSE") else ftplib.FTP_TLS)(context=context, timeout=60)
ftp.connect(env["HOST"], int(env["PORT"]))
ftp.login(env["WHO"], env["WORD"])
if tls != "plain":
    ftp.prot_p()
for name in "one", "two", "three":
    with open(data, "rb") as f:
        ftp.storbinary("STOR " + name, f)
assert {"one", "two", "three"} <= set(ftp.nlst()), ftp.nlst()
with open(out + "/back", "wb") as f:
    ftp.retrbinary("RETR one", f.write)
with open(out + "/tail", "ab") as f:
    ftp.retrbinary("RETR one", f.write, rest=f.tell())
ftp.rename("two", "four")
ftp.delete("three")
size = os.path.getsize(data) // 2
with open(data, "rb") as f:
    ftp.storbinary("STOR five", io.BytesIO(f.read(size)))
    ftp.storbinary("STOR five", f, rest=size)
ftp.quit()
