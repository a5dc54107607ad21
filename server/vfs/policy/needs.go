package policy

// The actions that file operations need (Transfer Family user guide, "Allowing read and write access to an Amazon S3
// bucket"; "Actions, resources, and condition keys for Amazon S3"; S3 API reference, the permissions of each operation).
const (
	getObject    = "s3:GetObject"
	putObject    = "s3:PutObject"
	deleteObject = "s3:DeleteObject"
	listBucket   = "s3:ListBucket"
)

// Operation is something that a client does with a name in a bucket.
type Operation string

// The operations. What a Stat needs depends on what stands there, which is for the caller to find out without telling.
const (
	Get        Operation = "get"
	Put        Operation = "put"
	Change     Operation = "change" // append to a file, go on with one, write into one
	List       Operation = "list"
	Mkdir      Operation = "mkdir"
	Delete     Operation = "delete"
	Rmdir      Operation = "rmdir"
	RenameFrom Operation = "rename from"
	RenameTo   Operation = "rename to"
)

// Needs is the table of what each operation asks S3 for. A directory is its listing's prefix and an object whose key ends
// with a slash ("Preventing users from running mkdir in an S3 bucket").
//
//	get          s3:GetObject                    on the key (HeadObject is s3:GetObject too)
//	put          s3:PutObject                    on the key
//	change       s3:GetObject, s3:PutObject      on the key: UploadPartCopy reads what stays
//	list         s3:ListBucket                   on the bucket, s3:prefix "dir/" or "", s3:delimiter "/"
//	mkdir        s3:PutObject                    on "key/"
//	delete       s3:DeleteObject                 on the key
//	rmdir        s3:ListBucket, s3:DeleteObject  to see that it is empty; on "key/"
//	rename from  s3:GetObject, s3:DeleteObject   on the old key: CopyObject and DeleteObject
//	rename to    s3:PutObject                    on the new key
func Needs(op Operation, bucket, name string) []Request {
	dir := name
	if dir != "" {
		dir += "/"
	}
	object := func(action, key string) Request { return Request{Action: action, Bucket: bucket, Key: key} }
	listing := Request{Action: listBucket, Bucket: bucket, Prefix: dir}
	switch op {
	case Get:
		return []Request{object(getObject, name)}
	case Put, RenameTo:
		return []Request{object(putObject, name)}
	case Change:
		return []Request{object(getObject, name), object(putObject, name)}
	case List:
		return []Request{listing}
	case Mkdir:
		return []Request{object(putObject, dir)}
	case Delete:
		return []Request{object(deleteObject, name)}
	case Rmdir:
		return []Request{listing, object(deleteObject, dir)}
	case RenameFrom:
		return []Request{object(getObject, name), object(deleteObject, name)}
	}
	return []Request{{Action: "unknown:" + string(op), Bucket: bucket, Key: name}} // which nothing but * allows
}
