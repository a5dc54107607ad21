package events

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Shape is how a receiver wants its events.
type Shape string

// The shapes.
const (
	AWSShape    Shape = "aws"         // as EventBridge delivers them
	CloudEvents Shape = "cloudevents" // CloudEvents 1.0, structured mode, JSON (CloudEvents JSON format 1.0.2)
)

// contentType is the shape's media type.
func (s Shape) contentType() string {
	if s == CloudEvents {
		return "application/cloudevents+json; charset=utf-8"
	}
	return "application/json"
}

// cloudEvent is an event in CloudEvents' words, with the extensions "partitioning" and "sequence" of its registry.
type cloudEvent struct {
	SpecVersion  string    `json:"specversion"`
	ID           string    `json:"id"`
	Source       string    `json:"source"`
	Type         string    `json:"type"`
	Subject      string    `json:"subject,omitempty"`
	Time         time.Time `json:"time"`
	ContentType  string    `json:"datacontenttype"`
	PartitionKey string    `json:"partitionkey"`
	Sequence     string    `json:"sequence"`
	Data         Detail    `json:"data"`
}

// encode writes an event as its receiver wants it.
func (s Shape) encode(e Event) ([]byte, error) {
	if s != CloudEvents {
		return marshal(e)
	}
	return marshal(cloudEvent{
		SpecVersion: "1.0", ID: e.ID, Source: strings.Join(e.Resources, " "), Type: e.cloudType(), Subject: e.key(),
		Time: e.Detail.EndTimestamp, ContentType: "application/json", PartitionKey: e.key(),
		// Of one length, so that their order as strings is theirs as numbers.
		Sequence: strings.Repeat("0", max(0, 19-len(strconv.FormatInt(e.Number, 10)))) + strconv.FormatInt(e.Number, 10),
		Data:     e.Detail,
	})
}

// cloudType is the detail-type without the protocol, which stands in the data: transferd.file.upload.completed.
func (e Event) cloudType() string {
	_, what, _ := strings.Cut(e.DetailType, " Server ")
	return "transferd." + strings.ToLower(strings.ReplaceAll(what, " ", "."))
}

// marshal is json.Marshal that leaves < > & as they are: paths have them, and nobody reads this as HTML.
func marshal(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}
