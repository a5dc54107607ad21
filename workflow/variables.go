package workflow

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// AWS has two variables in the destination of a step, and spells them ${transfer:UserName} in the guide and
// ${Transfer:UserName} in the API's text, so the case is free:
// https://docs.aws.amazon.com/transfer/latest/userguide/nominal-steps-workflow.html#named-variable-copy.
const (
	userName   = "username"
	uploadDate = "uploaddate"
)

var variable = regexp.MustCompile(`(?i)\$\{transfer:([^}]*)\}`)

// Expand puts the values of the variables into a bucket or key. A ${transfer:…} that is no variable is an error; any
// other ${…} may be a part of a name and stays. A value is never expanded again.
func (in *Input) Expand(text string) (string, error) {
	if err := checkVariables(text); err != nil {
		return "", &StepError{Type: BadRequest, Message: err.Error() + "."}
	}
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		if variableName(v) == userName {
			return in.User.UserName
		}
		return in.UploadDate.UTC().Format(time.DateOnly)
	}), nil
}

func variableName(v string) string { return strings.ToLower(variable.FindStringSubmatch(v)[1]) }

func checkVariables(text string) error {
	for _, v := range variable.FindAllString(text, -1) {
		if name := variableName(v); name != userName && name != uploadDate {
			return fmt.Errorf("unknown variable %s", v)
		}
	}
	return nil
}
