package identity

import "regexp"

// userName is the API's pattern of user names, which holds for those of custom identity providers too (transfer-api 3.1).
var userName = regexp.MustCompile(`^\w[\w@.-]{2,99}$`)

// ValidUserName says whether a name can be a user's. What cannot be one is denied without a question: it would have to
// be escaped in URLs, paths and logs.
func ValidUserName(name string) bool { return userName.MatchString(name) }
